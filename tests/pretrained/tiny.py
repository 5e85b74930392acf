"""Image-text models of the libraries' own classes, a few kB each with random weights, saved as the published
ones are.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

WORDS = ("<pad>", "</s>", "<unk>", "<s>", "a", "photo", "of", "the", "red", "dog", "cat", "wheel", "stripes")
SIDE, LONGEST = 32, 16
SEES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}
READS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": len(WORDS),
         "max_position_embeddings": LONGEST, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1}  # fmt: skip


def tokenizer():
    """Words as tokens, the end of a text after them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=LONGEST
    )


def clip(folder: Path) -> str:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    CLIPModel(CLIPConfig(text_config=READS, vision_config=SEES, projection_dim=8)).save_pretrained(folder)
    seeing = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(seeing, tokenizer()).save_pretrained(folder)
    return f"hf:{folder}"


def siglip(folder: Path) -> str:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    SiglipModel(SiglipConfig(text_config=READS, vision_config=SEES)).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer()).save_pretrained(folder)
    return f"hf:{folder}"


def siglip2(folder: Path) -> str:
    """As the NaFlex checkpoints are; those of one resolution are of SigLIP's classes."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor, Siglip2Tokenizer

    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    reading = Siglip2Tokenizer(vocab=vocabulary, merges=[], padding_side="right", model_max_length=LONGEST)
    reads = READS | {"vocab_size": len(letters)}
    sees = {key: value for key, value in SEES.items() if key != "image_size"} | {"num_patches": 16}
    Siglip2Model(Siglip2Config(text_config=reads, vision_config=sees)).save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessor(patch_size=16, max_num_patches=16), reading).save_pretrained(folder)
    return f"hf:{folder}"


def open_clip(folder: Path) -> str:
    from open_clip import CLIP
    from safetensors.torch import save_file

    sees = {"image_size": SIDE, "layers": 1, "width": 8, "head_width": 8, "patch_size": 16}
    reads = {"context_length": LONGEST, "vocab_size": 49_408, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": sees, "text_cfg": reads}
    folder.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in CLIP(**config).state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    seeing = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": seeing}))
    return f"open_clip:local-dir:{folder}"


MAKERS: dict[str, Callable[[Path], str]] = {"clip": clip, "siglip": siglip, "siglip2": siglip2, "open_clip": open_clip}


def make(name: str, folder: Path, seed: int = 0) -> str:
    """Saves the model of that kind, and gives what ``load_embedder`` loads it by."""
    torch.manual_seed(seed)
    return MAKERS[name](folder)
