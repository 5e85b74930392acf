"""Image-to-text models of transformers' own classes, a few kB each with random weights, saved as the published ones
are.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.pretrained.tiny import SEES, SIDE

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "a",
    "photo",
    "of",
    "the",
    "red",
    "dog",
    "cat",
    "wheel",
    "stripes",
)
LONGEST = 24


def _bert():
    from transformers import BertTokenizer

    return BertTokenizer(
        vocab={word: number for number, word in enumerate(WORDS)}, bos_token="[DEC]", model_max_length=LONGEST
    )


def _words(*more):
    """Words as tokens, the start of a text before them, and no end after them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*WORDS, "<image>", *more]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="[DEC] $A", special_tokens=[("[DEC]", 5)])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[DEC]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, additional_special_tokens=["<image>"], model_max_length=LONGEST, **named
    )


def blip(folder: Path) -> str:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    reads = {"hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
             "vocab_size": len(WORDS), "max_position_embeddings": LONGEST, "bos_token_id": 5, "sep_token_id": 3,
             "eos_token_id": 3,
             "pad_token_id": 0, "initializer_range": 0.5}  # fmt: skip
    config = BlipConfig(
        text_config=reads, vision_config=SEES | {"initializer_range": 0.5}, projection_dim=8, image_text_hidden_size=8
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), _bert()).save_pretrained(folder)
    return f"hf:{folder}"


def blip2(folder: Path) -> str:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor, OPTConfig

    tokenizer = _words()
    speaks = OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=len(tokenizer), init_std=0.5,
                       word_embed_proj_dim=16, max_position_embeddings=64, bos_token_id=5, eos_token_id=3,
                       pad_token_id=0)  # fmt: skip
    asks = {"hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
            "vocab_size": len(WORDS), "initializer_range": 0.5}  # fmt: skip
    config = Blip2Config(vision_config=SEES | {"initializer_range": 0.5}, qformer_config=asks,
        text_config=speaks.to_dict(),
                         num_query_tokens=2, image_token_index=len(WORDS))  # fmt: skip
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    Blip2Processor(
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer, num_query_tokens=2
    ).save_pretrained(folder)
    return f"hf:{folder}"


def git(folder: Path) -> str:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    config = GitConfig(vision_config=SEES, vocab_size=len(WORDS), hidden_size=16, intermediate_size=16,
        num_hidden_layers=1,
                       num_attention_heads=2, max_position_embeddings=64, bos_token_id=2, eos_token_id=3,
                       pad_token_id=0,
                       initializer_range=0.5)  # fmt: skip
    GitForCausalLM(config).save_pretrained(folder)
    seeing = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    GitProcessor(seeing, _bert()).save_pretrained(folder)
    return f"hf:{folder}"


def llava(folder: Path) -> str:
    """As the models that are asked in a chat."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = _words("USER", "ASSISTANT")
    template = (
        "{% for message in messages %}USER {% for part in message['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT{% endif %}"
    )
    speaks = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
              "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 64,
              "initializer_range": 0.5,
              "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0}  # fmt: skip
    sees = SEES | {"model_type": "clip_vision_model", "num_hidden_layers": 2}
    config = LlavaConfig(vision_config=sees, text_config=speaks, image_token_index=len(WORDS), vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    seeing = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        seeing,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return f"hf:{folder}"


MAKERS: dict[str, Callable[[Path], str]] = {"blip": blip, "blip2": blip2, "git": git, "llava": llava}


def make(name: str, folder: Path, seed: int = 0) -> str:
    """Saves the model of that kind, and gives what ``load_captioner`` loads it by."""
    torch.manual_seed(seed)
    return MAKERS[name](folder)
