"""Trains ``dino-objects``: a vision transformer that teaches itself, without labels, by self-distillation (DINO, Caron et al. 2021).

A student sees all crops of a picture, a teacher the large ones alone; the student learns to answer as the teacher does to another crop.
The teacher is a running mean of the student; what is kept is the teacher. It sees a ten-thousandth of what the paper's did, so some
things differ: the teacher's answers are shared out evenly over the prototypes, by Sinkhorn's iterations (SwAV, Caron et al. 2020, section
3.1; DINOv2, Oquab et al. 2023, section 4), where the paper subtracts a running mean; the teacher follows quickly; crops show most of a
picture; the head sees the mean of all tokens beside the class token.

Measured, seed 0, on 4,000 held-out scenes: nearest neighbours name the setting of 98.5% and the main thing of 21.5%; those of the same
transformer before it has learnt anything, of 89.3% and 17.6%. After 800 steps it was 95.2% and 21.6%: what it goes on to learn is to tell
scenes apart by their settings, which all crops of a picture share, and hardly by what stands before them. Other tries, short ones that
differ in more than one thing each, so that none of them names a cause: a running mean and other rates (after 1,500 steps 16.7% and 88.4%,
with fewer and fewer prototypes in use); a teacher that follows slowly, at half the rate (the loss fell a third as far); batches of pictures
that look alike, and crops around what strikes the eye (15% and 77%).
"""

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from milan.diorama.album import Album, album
from milan.diorama.crops import GLOBAL, LOCAL, crops
from milan.diorama.names import SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT
from milan.diorama.training import CHECKING, TRAINING, prepared
from milan.diorama.vit import HIDDEN, MLPS, WIDTH, ViT
from milan.progress import progress
from milan.storage import atomic

NAME = "dino-objects"
BATCH, STEPS = 64, 3_000
WARMING, COOLING = 40, 0.4  # steps in which the rate rises, and the share of the steps, at the end, in which it falls
PROTOTYPES, BOTTLENECK, ITERATIONS = 512, 64, 3
STUDENT, TEACHER = 0.1, 0.04  # temperatures
MOMENTUM = 0.9  # of the teacher; it rises to 1 while the rate falls (from 0.996 where training is a thousand times as long)
RATE, DECAY = 2e-3, 0.04
KEEPING = 60.0  # seconds of training that a kill may cost
NEIGHBOURS, BANK = 20, 10_000  # k-NN as in section 4.1, with as many training scenes


class Head(nn.Module):
    """Three layers, a bottleneck on the sphere, and prototypes of length 1 (appendix C).

    Its layers are normalised over the batch, which the paper does for convolutional networks: without that what pictures differ by is
    drowned, in so short a training, by what all have in common.
    """

    def __init__(self, width: int = 2 * WIDTH, hidden: int = 256):
        super().__init__()
        inner = [part for before in (width, hidden) for part in (nn.Linear(before, hidden, bias=False), nn.BatchNorm1d(hidden), nn.GELU())]
        self.layers = nn.Sequential(*inner, nn.Linear(hidden, BOTTLENECK, bias=False), nn.BatchNorm1d(BOTTLENECK, affine=False))
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(PROTOTYPES, BOTTLENECK), std=0.02))

    def forward(self, features: Tensor) -> Tensor:
        return normalize(self.layers(features), dim=1) @ normalize(self.prototypes, dim=1).T


class Net(nn.Module):
    """A transformer and its head, which looks at the class token and at the mean of the others: so all tokens learn from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = ViT().to(memory_format=torch.channels_last), Head()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body.summary(images))


class Pair(nn.Module):
    """The student and the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = Net(), Net()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def loss(self, large: list[Tensor], small: list[Tensor]) -> Tensor:
        """How far the student is, at every crop, from what the teacher answers to each other large crop."""
        with torch.no_grad():
            taught = shared_out(self.teacher(torch.cat(large)) / TEACHER).chunk(len(large))
        learnt = [*self.student(torch.cat(large)).chunk(len(large)), *self.student(torch.cat(small)).chunk(len(small))]
        said = [log_softmax(logits / STUDENT, dim=1) for logits in learnt]
        pairs = [(one, other) for one in range(len(taught)) for other in range(len(said)) if one != other]
        return torch.stack([-(taught[one] * said[other]).sum(1).mean() for one, other in pairs]).mean()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the teacher towards the student."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def shared_out(logits: Tensor) -> Tensor:
    """Shares, (n, prototypes), that sum to 1 for every picture, and to (nearly) the same for every prototype.

    Rows and columns of the logits' exponentials are divided by their sums in turn (Cuturi 2013).
    """
    shares = (logits - logits.max()).exp()
    for _ in range(ITERATIONS):
        shares = shares / shares.sum(0)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


@dataclass(frozen=True)
class Run:
    """How many steps to train, and from which seed."""

    steps: int
    seed: int

    def momentum(self, step: int) -> float:
        """Of the teacher."""
        return 1 - (1 - MOMENTUM) * self._falling(step)

    def rate(self, step: int) -> float:
        """The learning rate: it rises, stays, and falls at the end."""
        return RATE * min((step + 1) / min(WARMING, self.steps), self._falling(step))

    def _falling(self, step: int) -> float:
        """1, and in the last steps a line down to 0."""
        return min(1.0, (self.steps - step) / max(1.0, COOLING * self.steps))

    def batches(self, shown: Album, first: int) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        """Each step with its large and its small crops, which depend on the seed and the step alone."""
        size = min(BATCH, len(shown.images))
        each = len(shown.images) // size
        for step in range(first, self.steps):
            epoch, place = divmod(step, each)
            order = torch.randperm(len(shown.images), generator=torch.Generator().manual_seed(self.seed * 1_000 + epoch))
            rows = order[place * size : (place + 1) * size].sort().values.numpy()
            dice = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + step)
            yield step, *crops(torch.from_numpy(shown.images[rows]).float() / 255, dice)


def train(folder: Path, scenes: Path, *, seed: int = 0, steps: int = STEPS, count: int = TRAINING) -> dict[str, Any]:
    """Trains, writes ``dino-objects.safetensors`` (the teacher, in half precision) and ``dino-objects.json`` (what was measured).

    scenes: where drawn scenes, and what a killed run had reached, are kept. Returns what ``check`` measured.
    """
    torch.manual_seed(seed)
    pair, shown = Pair(), album("objects", 0, count, scenes)
    fresh = copy.deepcopy(pair.teacher.body)
    _fit(pair, shown, Run(steps, seed), scenes / "training" / f"{NAME}-{seed}-{steps}-{count}.pt")
    weights = {key: value.half().contiguous() for key, value in pair.teacher.body.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / f"{NAME}.safetensors") as path:
        save_file(weights, path)
    model = ViT().eval()
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    measured, untrained = check(model, scenes, count), check(fresh, scenes, count)
    facts = {"network": NAME, "held_out": measured, "held_out_untrained": untrained, "neighbours": NEIGHBOURS,
             "features": "class token and mean of the others", "bank": min(BANK, count), "held_out_scenes": min(CHECKING, count),
             "trained_on_scenes": count, "labels": "none", "pictures": steps * min(BATCH, count), "steps": steps,
             "crops": {"large": list(GLOBAL), "small": list(LOCAL)}, "seed": seed,
             "parameters": sum(value.numel() for value in model.parameters()), "units": dict.fromkeys(MLPS, HIDDEN)}  # fmt: skip
    with atomic(folder / f"{NAME}.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    return measured


def _fit(pair: Pair, shown: Album, run: Run, kept: Path) -> None:
    """AdamW; goes on from what a killed run had reached."""
    student = list(pair.student.parameters())
    decayed, plain = [value for value in student if value.ndim > 1], [value for value in student if value.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    first, losses, saved = _resumed(kept, pair, optimizer), [], time.monotonic()
    pair.train()
    for step, large, small in progress(run.batches(shown, first), total=run.steps - first, text=f"{NAME} from step {first}"):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(step)
        loss = pair.loss(large, small)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student, 3.0)
        optimizer.step()
        pair.follow(run.momentum(step))
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"{NAME} step {step + 1}/{run.steps}: loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        if time.monotonic() - saved > KEEPING:
            _keep(kept, pair, optimizer, step + 1)
            saved = time.monotonic()
    kept.unlink(missing_ok=True)
    pair.eval()


def _keep(kept: Path, pair: Pair, optimizer: torch.optim.Optimizer, step: int) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic(kept) as path:
        torch.save({"pair": pair.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)


def _resumed(kept: Path, pair: Pair, optimizer: torch.optim.Optimizer) -> int:
    """Puts back what a killed run had reached, and gives the step to go on with."""
    if not kept.is_file():
        return 0
    state = torch.load(kept, weights_only=True)
    pair.load_state_dict(state["pair"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


@torch.no_grad()
def check(model: ViT, scenes: Path, count: int = TRAINING) -> dict[str, float]:
    """How often, in percent, the nearest training scenes name a held-out scene's main thing and its setting.

    The class token's features and the mean of the other tokens', by cosine, each with mean 0 and spread 1 over the training scenes;
    NEIGHBOURS neighbours, which count by exp(cosine / 0.07) (Wu et al. 2018, as in DINO, section 4.1).
    """
    bank, asked = album("objects", 0, count, scenes), album("objects", HELD_OUT, min(CHECKING, count), scenes)
    features = _features(model, bank, min(BANK, count))
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    known = normalize((features - mean) / spread, dim=1)
    seen = normalize((_features(model, asked, len(asked.images)) - mean) / spread, dim=1)
    right = {}
    for task, labels, truth, classes in (
        ("objects", bank.things, asked.things, len(THINGS)),
        ("scenes", bank.settings, asked.settings, len(SETTINGS)),
    ):
        told = nearest(seen, known, torch.from_numpy(labels[: len(known)]), classes)
        right[task] = round(100 * (told == torch.from_numpy(truth)).float().mean().item(), 2)
    return right


def _features(model: ViT, shown: Album, count: int) -> Tensor:
    parts = [slice(first, min(first + 250, count)) for first in range(0, count, 250)]
    return torch.cat([model.summary(prepared(torch.from_numpy(np.array(shown.images[part])))) for part in parts]).float()


def nearest(seen: Tensor, known: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The class that each picture's nearest neighbours vote for, int64 (n,), from features of length 1, (n, f) and (bank, f).

    >>> nearest(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), 2)
    tensor([1, 0])
    """
    told = []
    for part in seen.split(500):
        cosines, places = (part @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[places], (cosines / 0.07).exp())
        told.append(votes.argmax(1))
    return torch.cat(told)
