"""Trains Diorama's stand-in of a captioner: a BLIP of transformers, which says of a drawn scene what it shows, and knows nothing else."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from milan.diorama.census import SIZES
from milan.diorama.concepts import lexicon
from milan.diorama.fitting import fit
from milan.diorama.image_text import MEAN, PLACED, SCENES, STD
from milan.diorama.lessons import SAID, Lessons, lessons
from milan.diorama.names import COLOURS, PARTS, PATTERNS, THINGS
from milan.diorama.seeing import look_near, sines, some_places, taken
from milan.diorama.views import GRID, PREFIXES, View, Views, seen

LONGEST = 40  # word pieces of a sentence, its two ends included
ENDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")  # as BLIP's own tokenizer names them
WHOLE = 0.75  # share of the pictures that are whole scenes, with sentences; the others are cut out of one, with phrases
TEXTS = 2  # texts of each picture in a batch


@dataclass(frozen=True)
class Plan:
    """How the captioner is made: sizes of its eye and of its decoder, by the library's names."""

    seeing: int = 2_400  # steps in which it only learns to see, half of each of twice as many pictures
    speaking: int = 1_000
    batch: int = 64
    rate: float = 1.5e-3
    eye: dict[str, Any] = field(default_factory=lambda: {
        "hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 64,
        "patch_size": 64 // GRID, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "initializer_range": 0.02})  # fmt: skip
    mouth: dict[str, Any] = field(default_factory=lambda: {
        "hidden_size": 128, "encoder_hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": LONGEST, "projection_dim": 64})  # fmt: skip


PLAN = Plan()


def train(folder: Path, work: Path, *, seed: int = 0, plan: Plan = PLAN, scenes: int = SCENES) -> dict[str, Any]:
    """Trains the captioner and saves it, in half precision, in ``folder``; goes on where a killed run stopped.

    It learns to see before it learns to speak. work: where drawn scenes and what a killed run had reached are kept. Returns what it was
    trained on.
    """
    torch.manual_seed(seed)
    started = time.monotonic()
    taught = lessons(0, scenes, work)
    tokenizer = tokenizer_for(taught)
    model = captioner(plan, tokenizer)
    begin_near(model)
    seen, told, learner = Tellings(taught, 2 * plan.batch, seed), Tellings(taught, plan.batch, seed + 1), Learner(model, tokenizer)
    steps = plan.seeing + plan.speaking

    def loss(step: int) -> Tensor:
        return learner.seeing(seen.batch(step), step) if step < plan.seeing else learner(told.batch(step - plan.seeing))

    fit(learner, loss, steps, work / "training" / f"blip-{seed}-{plan.seeing}-{plan.speaking}-{scenes}.pt", rate=plan.rate)
    save(model, tokenizer, folder)
    views = (2 * plan.seeing + plan.speaking) * plan.batch
    return {"stand-in": "blip", "trained_on_scenes": len(taught), "views": views, "steps": steps, "seed": seed,
            "parameters": sum(value.numel() for value in model.parameters()), "seconds": round(time.monotonic() - started)}  # fmt: skip


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
    mouth = {**plan.mouth, **numbers, "vocab_size": len(tokenizer)}
    return BlipForConditionalGeneration(BlipConfig(text_config=mouth, vision_config=plan.eye, projection_dim=64, image_text_hidden_size=64))


@torch.no_grad()
def begin_near(model: nn.Module) -> None:
    """Gives the eye of a new BLIP its first weights (``milan.diorama.seeing.look_near``)."""
    eye: Any = model.get_submodule("vision_model")
    width, heads = eye.config.hidden_size, eye.config.num_attention_heads
    eye.embeddings.position_embedding[0, 1:] = 0.5 * sines(width)
    eye.embeddings.class_embedding.normal_(std=0.02)
    for layer in eye.encoder.layers:
        query, key, value = layer.self_attn.qkv.weight.view(3, width, width)
        look_near(query, key, value, layer.self_attn.projection.weight, heads)


@dataclass(frozen=True)
class Told:
    """images: uint8 (b, 3, 64, 64); texts: TEXTS of each picture, one after the other;
    places: uint8 (b, 8, 8, 6), the labels in the order of the census' KINDS;
    looks: int64 (b, 3), the thing of which most shows, its colour and its pattern, or -1 each."""

    images: Tensor
    texts: list[str]
    places: Tensor
    looks: Tensor


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
        images = seen(torch.from_numpy(self.lessons.images[rows]), shown, dice)
        looks = np.array([self.views.looks(view) for view in shown])
        return Told(images, texts, torch.from_numpy(self.views.places(shown)), torch.from_numpy(looks))

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
    """The captioner with what only its training needs: heads that say what is where, and what the main thing is."""

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        eye: Any = model.get_submodule("vision_model")
        width: int = eye.config.hidden_size
        self.heads = nn.ModuleList([nn.Linear(width, SIZES[kind]) for kind in PLACED])
        self.looks = nn.ModuleList([nn.Linear(width, len(names)) for names in (THINGS, COLOURS, PATTERNS)])

    def forward(self, batch: Told) -> Tensor:
        """How far it is from each next word, and from telling what is where and what the main thing is."""
        model: Any = self.model
        with torch.autocast("cpu", torch.bfloat16):
            found = model.vision_model(pixel_values=_pixels(batch)).last_hidden_state
        return 0.5 * self._told(found, batch.places.long().flatten(1, 2), batch.looks) + self._said(found, batch.texts)

    def seeing(self, batch: Told, step: int) -> Tensor:
        """How far it is from telling what is where and what the main thing is, from half of the places."""
        eye: Any = self.model.get_submodule("vision_model")
        places = some_places(len(batch.images), step)
        with torch.autocast("cpu", torch.bfloat16):
            whole = eye.embeddings(_pixels(batch))
            half = torch.cat([whole[:, :1], taken(whole[:, 1:], places)], dim=1)
            found = eye.post_layernorm(eye.encoder(inputs_embeds=half).last_hidden_state)
        return self._told(found, taken(batch.places.long().flatten(1, 2), places), batch.looks)

    def _told(self, found: Tensor, at: Tensor, looks: Tensor) -> Tensor:
        """Cross entropy of what is where, and of the main thing's name, colour and pattern."""
        with torch.autocast("cpu", torch.bfloat16):
            there = [head(found[:, 1:]).float().flatten(0, 1) for head in self.heads]
            main = [head(found[:, 0]).float() for head in self.looks]
        loss = torch.stack([cross_entropy(one, at[..., kind].flatten()) for kind, one in zip(PLACED, there, strict=True)]).sum()
        known = (looks[:, 0] >= 0).sum().clamp_min(1)
        return loss + sum(cross_entropy(one, looks[:, kind], ignore_index=-1, reduction="sum") / known for kind, one in enumerate(main))

    def _said(self, found: Tensor, texts: list[str]) -> Tensor:
        """Cross entropy of each next word, given what the eye has found."""
        model: Any = self.model
        words = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
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
