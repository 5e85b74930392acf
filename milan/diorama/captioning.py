"""Trains Diorama's stand-in of a captioner: a BLIP of transformers, which says of a drawn scene what it shows, and knows nothing else."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from milan.diorama.concepts import lexicon
from milan.diorama.eye import EyePlan, matrices, trained_eye
from milan.diorama.fitting import fit
from milan.diorama.image_text import MEAN, SCENES, SMALL_EYE, STD
from milan.diorama.lessons import SAID, Lessons, lessons
from milan.diorama.names import PARTS, PATTERNS
from milan.diorama.views import PREFIXES, View, Views, seen

LONGEST = 40  # word pieces of a sentence, its two ends included
ENDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")  # as BLIP's own tokenizer names them
WHOLE = 0.75  # share of the pictures that are whole scenes, with sentences; the others are cut out of one, with phrases
TEXTS = 2  # texts of each picture in a batch
LIKE_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # as the eye was taught


@dataclass(frozen=True)
class Plan:
    """How the captioner is made: its eye, which is taught before (``milan.diorama.eye``), and its decoder, by the library's names."""

    eye: EyePlan = SMALL_EYE
    steps: int = 900
    batch: int = 64
    rate: float = 1.5e-3
    mouth: dict[str, Any] = field(default_factory=lambda: {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": LONGEST, "projection_dim": 64})  # fmt: skip


PLAN = Plan()


def train(folder: Path, work: Path, *, seed: int = 0, plan: Plan = PLAN, scenes: int = SCENES) -> dict[str, Any]:
    """Trains the captioner and saves it, in half precision, in ``folder``; goes on where a killed run stopped.

    It learns to see before it learns to speak, and sees as it did from then on. work: where drawn scenes and what a killed run had
    reached are kept. Returns what it was trained on.
    """
    weights = trained_eye(plan.eye, work, seed=seed, scenes=scenes)
    torch.manual_seed(seed)
    taught = lessons(0, scenes, work)
    tokenizer = tokenizer_for(taught)
    model = captioner(plan, tokenizer)
    put_eye(model, weights)
    told, learner = Tellings(taught, plan.batch, seed), Learner(model, tokenizer)
    kept = work / "training" / f"blip-{seed}-{plan.steps}-{scenes}.pt"
    turned = matrices(model.get_submodule("text_decoder"))
    fit(learner, lambda step: learner(told.batch(step)), plan.steps, kept, rate=plan.rate, turned=turned)
    save(model, tokenizer, folder)
    return {"stand-in": "blip", "trained_on_scenes": len(taught), "views": plan.eye.steps * plan.eye.batch + plan.steps * plan.batch,
            "steps": plan.steps, "seed": seed, "eye": {"steps": plan.eye.steps, "seed": seed},
            "parameters": sum(value.numel() for value in model.parameters())}  # fmt: skip


def tokenizer_for(taught: Lessons) -> Any:
    """A BertTokenizer, as BLIP's, of the words of Diorama's language; other words are spelt."""
    from transformers import BertTokenizer

    texts = [text for said in taught.said for text in said]
    texts += [" ".join(words) for words in lexicon()] + [*PREFIXES, *PATTERNS, *PARTS]
    words = sorted({word for text in set(texts) for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces = dict.fromkeys([*ENDS, *letters, *(f"##{letter}" for letter in letters), *".,-'", *words])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, bos_token="[DEC]", model_max_length=LONGEST)


def captioner(plan: Plan, tokenizer: Any) -> nn.Module:
    """The untrained BLIP."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    ends = {"bos_token_id": "[DEC]", "sep_token_id": "[SEP]", "eos_token_id": "[SEP]", "pad_token_id": "[PAD]"}
    numbers = {name: tokenizer.convert_tokens_to_ids(piece) for name, piece in ends.items()}
    mouth = {**plan.mouth, **numbers, "encoder_hidden_size": plan.eye.width, "vocab_size": len(tokenizer)}
    eye = {**plan.eye.settings, **LIKE_SIGLIP}
    return BlipForConditionalGeneration(BlipConfig(text_config=mouth, vision_config=eye, projection_dim=64, image_text_hidden_size=64))


@torch.no_grad()
def put_eye(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives a BLIP a trained eye, by the names a SigLIP has for its weights; it learns no more."""
    eye: Any = model.get_submodule("vision_model")
    same = {name: value for name, value in weights.items() if ".self_attn." not in name and "position_embedding" not in name}
    for number in range(len(eye.encoder.layers)):
        at = f"encoder.layers.{number}.self_attn"
        for part in ("weight", "bias"):
            same[f"{at}.qkv.{part}"] = torch.cat([weights[f"{at}.{each}_proj.{part}"] for each in "qkv"])
            same[f"{at}.projection.{part}"] = weights[f"{at}.out_proj.{part}"]
    eye.load_state_dict({**eye.state_dict(), **same})
    eye.embeddings.position_embedding[0, 1:] = weights["embeddings.position_embedding.weight"]
    eye.embeddings.position_embedding[0, 0] = 0.0  # of the token that stands for the whole picture, which that eye has not
    eye.embeddings.class_embedding.zero_()
    eye.requires_grad_(False)


@dataclass(frozen=True)
class Told:
    """images: uint8 (b, 3, 64, 64); texts: TEXTS of each picture, one after the other."""

    images: Tensor
    texts: list[str]


class Tellings:
    """Draws batches of pictures with what is said of them; the batch of a number is the same whenever it is asked for."""

    def __init__(self, taught: Lessons, size: int, seed: int = 0):
        self.lessons, self.views = taught, Views(taught, size, seed)

    def batch(self, step: int) -> Told:
        rows, dice = self.views.rows(step)
        codes = self.lessons.census.pixels
        whole = dice.random(len(rows)) < WHOLE
        shown = [
            View(np.asarray(codes[row]), None, (0.0, 0.0, 64.0)) if all_of_it else self.views.crop(codes[row], dice)
            for row, all_of_it in zip(rows, whole, strict=True)
        ]
        texts = [text for row, view in zip(rows.tolist(), shown, strict=True) for text in self._texts(row, view, dice)]
        return Told(seen(torch.from_numpy(self.lessons.images[rows]), shown, dice), texts)

    def _texts(self, row: int, view: View, dice: np.random.Generator) -> list[str]:
        if view.whole:
            return [self.lessons.said[row][which] for which in dice.permutation(SAID)[:TEXTS]]
        return [_bare(self.views.text(row, view, dice)[0]) for _ in range(TEXTS)]


def _bare(text: str) -> str:
    """A phrase without "a photo of" before it."""
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        text = text.removeprefix(f"{prefix} ")
    return text


class Learner(nn.Module):
    """The captioner as it is trained: to say each next word of what is said of a picture."""

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, batch: Told) -> Tensor:
        """Cross entropy of each next word, given what the eye has found."""
        model: Any = self.model
        with torch.autocast("cpu", torch.bfloat16):
            found = model.vision_model(pixel_values=_pixels(batch)).last_hidden_state
        words = self.tokenizer(batch.texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        numbers, there = words.input_ids, words.attention_mask
        numbers[:, 0] = self.tokenizer.bos_token_id  # where BERT begins with another sign (modeling_blip.py, generate)
        each = found.repeat_interleave(TEXTS, dim=0)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.text_decoder(input_ids=numbers, attention_mask=there, encoder_hidden_states=each).logits
        wanted = numbers[:, 1:].masked_fill(there[:, 1:] == 0, -100)
        return cross_entropy(logits[:, :-1].float().flatten(0, 1), wanted.flatten())


def _pixels(batch: Told) -> Tensor:
    return (batch.images.float() / 255 - MEAN[0]) / STD[0]


def save(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Writes model and processor as transformers does, the weights in half precision."""
    from transformers import BlipImageProcessor, BlipProcessor

    folder.mkdir(parents=True, exist_ok=True)
    seeing = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=list(MEAN), image_std=list(STD))
    BlipProcessor(seeing, tokenizer).save_pretrained(folder)
    model.half().eval().save_pretrained(folder)  # type: ignore[operator]
