"""Trains Diorama's stand-in for image captioners: a BLIP of transformers that describes drawn scenes."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from milan.diorama.scene_concepts import list_written_phrases
from milan.diorama.scene_vocabulary import PARTS, PATTERNS
from milan.diorama_build.caption_dataset import SENTENCES_PER_SCENE, CaptionDataset, load_caption_dataset
from milan.diorama_build.image_text_batches import PREFIXES, ImageTextBatches, SceneView, render_views
from milan.diorama_build.image_text_configs import MEAN, SCENES, SMALL_VISION_ENCODER, STD
from milan.diorama_build.stand_in_training import fit_stand_in
from milan.diorama_build.vision_encoder_training import VisionEncoderConfig, list_matrices, train_vision_encoder

MAX_TOKENS = 40  # tokens of a sentence, start and end included
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")  # the names of BLIP's own tokenizer
# Share of the images that are whole scenes, with sentences; the others are crops, with phrases.
WHOLE_SHARE = 0.75
TEXTS_PER_IMAGE = 2  # texts of each image in a batch
ENCODER_OPTIONS = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # those of the trained image model


@dataclass(frozen=True)
class CaptionerConfig:
    """The architecture and the training of the captioner.

    Attributes:
        vision_encoder: the image model, which is trained first and then frozen.
        steps: number of training steps.
        batch_size: images of a batch.
        learning_rate: learning rate of the training.
        text_decoder: settings of the decoder, by the library's names.
    """

    vision_encoder: VisionEncoderConfig = SMALL_VISION_ENCODER
    steps: int = 900
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    text_decoder: dict[str, Any] = field(default_factory=lambda: {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS, "projection_dim": 64})  # fmt: skip


DEFAULT_CONFIG = CaptionerConfig()


def train_captioner(
    folder: Path, work: Path, *, seed: int = 0, config: CaptionerConfig = DEFAULT_CONFIG, scenes: int = SCENES
) -> dict[str, Any]:
    """Train the captioner and save it in half precision; an interrupted training is resumed.

    The image model is trained first and is frozen while the decoder is trained.

    Args:
        folder: output folder.
        work: folder of rendered scenes and checkpoints.
        seed: random seed.
        config: architecture and training settings.
        scenes: number of scenes of each world.

    Returns:
        What it was trained on, for its model card.
    """
    weights = train_vision_encoder(config.vision_encoder, work, seed=seed, scenes=scenes)
    torch.manual_seed(seed)
    dataset = load_caption_dataset(0, scenes, work)
    tokenizer = build_tokenizer(dataset)
    model = build_captioner(config, tokenizer)
    set_vision_encoder(model, weights)
    batches, learner = CaptionerBatches(dataset, config.batch_size, seed), CaptionerLearner(model, tokenizer)
    checkpoint = work / "training" / f"blip-{seed}-{config.steps}-{scenes}.pt"
    matrices = list_matrices(model.get_submodule("text_decoder"))
    fit_stand_in(
        learner,
        lambda step: learner(batches.make_batch(step)),
        config.steps,
        checkpoint,
        learning_rate=config.learning_rate,
        muon_parameters=matrices,
    )
    save_captioner(model, tokenizer, folder)
    return {"stand-in": "blip", "trained_on_scenes": len(dataset),
        "views": config.vision_encoder.steps * config.vision_encoder.batch_size + config.steps * config.batch_size,
            "steps": config.steps, "seed": seed, "eye": {"steps": config.vision_encoder.steps, "seed": seed},
            "parameters": sum(value.numel() for value in model.parameters())}  # fmt: skip


def build_tokenizer(dataset: CaptionDataset) -> Any:
    """Return a BertTokenizer, as BLIP's, of the words of Diorama's language; other words are split into letters."""
    from transformers import BertTokenizer

    texts = [text for sentences in dataset.sentences for text in sentences]
    texts += [*list_written_phrases(), *PREFIXES, *PATTERNS, *PARTS]
    words = sorted({word for text in set(texts) for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = dict.fromkeys([*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *".,-'", *words])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, bos_token="[DEC]", model_max_length=MAX_TOKENS)


def build_captioner(config: CaptionerConfig, tokenizer: Any) -> nn.Module:
    """Return the untrained BLIP."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    ends = {"bos_token_id": "[DEC]", "sep_token_id": "[SEP]", "eos_token_id": "[SEP]", "pad_token_id": "[PAD]"}
    numbers = {name: tokenizer.convert_tokens_to_ids(piece) for name, piece in ends.items()}
    text_decoder = {
        **config.text_decoder,
        **numbers,
        "encoder_hidden_size": config.vision_encoder.width,
        "vocab_size": len(tokenizer),
    }
    vision_encoder = {**config.vision_encoder.settings, **ENCODER_OPTIONS}
    return BlipForConditionalGeneration(
        BlipConfig(text_config=text_decoder, vision_config=vision_encoder, projection_dim=64, image_text_hidden_size=64)
    )


@torch.no_grad()
def set_vision_encoder(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a SigLIP's image model into a BLIP, whose image model is frozen."""
    vision_encoder: Any = model.get_submodule("vision_model")
    same = {
        name: value for name, value in weights.items() if ".self_attn." not in name and "position_embedding" not in name
    }
    for number in range(len(vision_encoder.encoder.layers)):
        at = f"encoder.layers.{number}.self_attn"
        for part in ("weight", "bias"):
            same[f"{at}.qkv.{part}"] = torch.cat([weights[f"{at}.{each}_proj.{part}"] for each in "qkv"])
            same[f"{at}.projection.{part}"] = weights[f"{at}.out_proj.{part}"]
    vision_encoder.load_state_dict({**vision_encoder.state_dict(), **same})
    vision_encoder.embeddings.position_embedding[0, 1:] = weights["embeddings.position_embedding.weight"]
    # A SigLIP has no class token.
    vision_encoder.embeddings.position_embedding[0, 0] = 0.0
    vision_encoder.embeddings.class_embedding.zero_()
    vision_encoder.requires_grad_(False)


@dataclass(frozen=True)
class CaptionerBatch:
    """Images with their texts.

    Attributes:
        images: uint8 (b, 3, 64, 64).
        texts: TEXTS_PER_IMAGE texts of the first image, then those of the second, and so on.
    """

    images: Tensor
    texts: list[str]


class CaptionerBatches:
    """Random batches of images with texts; the batch of a step is always the same."""

    def __init__(self, dataset: CaptionDataset, size: int, seed: int = 0):
        self.dataset, self.image_text_batches = dataset, ImageTextBatches(dataset, size, seed)

    def make_batch(self, step: int) -> CaptionerBatch:
        """Return the batch of a step: whole or cropped scenes with their texts."""
        rows, rng = self.image_text_batches.choose_rows(step)
        codes = self.dataset.signatures.pixels
        whole = rng.random(len(rows)) < WHOLE_SHARE
        views = [
            (
                SceneView(np.asarray(codes[row]), None, (0.0, 0.0, 64.0))
                if is_whole
                else self.image_text_batches.make_crop(codes[row], rng)
            )
            for row, is_whole in zip(rows, whole, strict=True)
        ]
        texts = [
            text for row, view in zip(rows.tolist(), views, strict=True) for text in self._make_texts(row, view, rng)
        ]
        return CaptionerBatch(render_views(torch.from_numpy(self.dataset.images[rows]), views, rng), texts)

    def _make_texts(self, row: int, view: SceneView, rng: np.random.Generator) -> list[str]:
        if view.is_whole:
            return [
                self.dataset.sentences[row][which] for which in rng.permutation(SENTENCES_PER_SCENE)[:TEXTS_PER_IMAGE]
            ]
        return [_strip_prefix(self.image_text_batches.make_text(row, view, rng)[0]) for _ in range(TEXTS_PER_IMAGE)]


def _strip_prefix(text: str) -> str:
    """Return a phrase without a prefix such as "a photo of"."""
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        text = text.removeprefix(f"{prefix} ")
    return text


class CaptionerLearner(nn.Module):
    """A captioner with its loss, the cross entropy of each next token."""

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, batch: CaptionerBatch) -> Tensor:
        """Return the mean cross entropy of the texts' tokens, given their images."""
        model: Any = self.model
        with torch.autocast("cpu", torch.bfloat16):
            features = model.vision_model(pixel_values=_normalize(batch)).last_hidden_state
        encoded = self.tokenizer(batch.texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        tokens, mask = encoded.input_ids, encoded.attention_mask
        # BERT's first token is another one (modeling_blip.py, generate).
        tokens[:, 0] = self.tokenizer.bos_token_id
        features = features.repeat_interleave(TEXTS_PER_IMAGE, dim=0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.text_decoder(input_ids=tokens, attention_mask=mask, encoder_hidden_states=features).logits
        targets = tokens[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        return cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten())


def _normalize(batch: CaptionerBatch) -> Tensor:
    return (batch.images.float() / 255 - MEAN[0]) / STD[0]


def save_captioner(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Save model and processor in the format of transformers, with weights in half precision."""
    from transformers import BlipImageProcessor, BlipProcessor

    folder.mkdir(parents=True, exist_ok=True)
    processor = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=list(MEAN), image_std=list(STD))
    BlipProcessor(processor, tokenizer).save_pretrained(folder)
    model.half().eval().save_pretrained(folder)  # type: ignore[operator]
