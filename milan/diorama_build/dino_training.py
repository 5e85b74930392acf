"""Trains ``dino-objects``, a vision transformer, without labels by self-distillation (DINO, Caron et al. 2021).

A student gets all crops of an image, a teacher the large ones only; the student learns to predict the teacher's output
for another crop. The teacher, which is saved, is a running mean of the student. Training is a ten-thousandth of the
paper's, so some things differ: the teacher's outputs are balanced over the prototypes by Sinkhorn's iterations (SwAV,
Caron et al. 2020, section 3.1; DINOv2, Oquab et al. 2023, section 4), where the paper subtracts a running mean; the
teacher's momentum is lower; crops contain most of an image; the head reads the mean of all tokens beside the class
token.

Measured with seed 0 on 4,000 held-out scenes: nearest neighbours name the setting of 98.5% and the main thing of 21.5%;
with the untrained transformer 89.3% and 17.6%. After 800 steps it was 95.2% and 21.6%: further training separates
scenes by their settings, which all crops of an image share, and hardly by the things in front of them. Short trials of
alternatives, each of which changed more than one thing, so that no cause can be named: a running mean and other rates
(16.7% and 88.4% after 1,500 steps, with fewer and fewer prototypes in use); a higher momentum at half the rate (the
loss fell a third as far); batches of similar images, and crops around salient places (15% and 77%).
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

from milan.console.progress import track_progress
from milan.diorama.scene_cache import SceneArrays, load_scene_arrays
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT_START
from milan.diorama.vit import HIDDEN, MLP_LAYERS, WIDTH, ViT
from milan.diorama_build.classifier_training import CHECKING_SCENES, TRAINING_SCENES
from milan.diorama_build.dino_crops import GLOBAL, LOCAL, make_crops
from milan.storage.files import atomic_write

NAME = "dino-objects"
BATCH_SIZE, STEPS = 64, 3_000
WARMUP_STEPS = 40  # steps in which the learning rate rises
DECAY_SHARE = 0.4  # share of the steps, at the end, in which the learning rate falls
PROTOTYPES, BOTTLENECK, ITERATIONS = 512, 64, 3
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
# It rises to 1 while the learning rate falls; the paper, which trains a thousand times as long, begins with 0.996.
TEACHER_MOMENTUM = 0.9
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.04
CHECKPOINT_SECONDS = 60.0  # seconds between two checkpoints
NEIGHBOURS, BANK_SIZE = 20, 10_000  # neighbours and training scenes of the k-NN evaluation of section 4.1


class DinoHead(nn.Module):
    """Three layers, a bottleneck on the sphere, and prototypes of length 1 (appendix C).

    The layers are batch-normalized, which the paper does for convolutional networks only: without it, the part that all
    features share hides their differences in so short a training.
    """

    def __init__(self, width: int = 2 * WIDTH, hidden: int = 256):
        super().__init__()
        inner = [
            part
            for before in (width, hidden)
            for part in (nn.Linear(before, hidden, bias=False), nn.BatchNorm1d(hidden), nn.GELU())
        ]
        self.layers = nn.Sequential(
            *inner, nn.Linear(hidden, BOTTLENECK, bias=False), nn.BatchNorm1d(BOTTLENECK, affine=False)
        )
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(PROTOTYPES, BOTTLENECK), std=0.02))

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosines between each feature vector and each prototype, (b, prototypes)."""
        return normalize(self.layers(features), dim=1) @ normalize(self.prototypes, dim=1).T


class DinoNetwork(nn.Module):
    """A transformer and its head, which reads the class token and the mean of the others, so that all get gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = ViT().to(memory_format=torch.channels_last), DinoHead()

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's cosines, (b, prototypes), for images (b, 3, h, w)."""
        return self.head(self.body.forward_summary(images))


class StudentTeacher(nn.Module):
    """The student and the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = DinoNetwork(), DinoNetwork()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def loss(self, large: list[Tensor], small: list[Tensor]) -> Tensor:
        """Return the mean cross entropy of the student's output for each crop with the teacher's for another one."""
        with torch.no_grad():
            targets = sinkhorn_normalize(self.teacher(torch.cat(large)) / TEACHER_TEMPERATURE).chunk(len(large))
        outputs = [*self.student(torch.cat(large)).chunk(len(large)), *self.student(torch.cat(small)).chunk(len(small))]
        predictions = [log_softmax(logits / STUDENT_TEMPERATURE, dim=1) for logits in outputs]
        pairs = [(one, other) for one in range(len(targets)) for other in range(len(predictions)) if one != other]
        return torch.stack([-(targets[one] * predictions[other]).sum(1).mean() for one, other in pairs]).mean()

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def sinkhorn_normalize(logits: Tensor) -> Tensor:
    """Return shares, (n, prototypes), that sum to 1 for each image and to nearly the same for each prototype.

    Rows and columns of the logits' exponentials are divided by their sums in turn (Cuturi 2013).
    """
    shares = (logits - logits.max()).exp()
    for _ in range(ITERATIONS):
        shares = shares / shares.sum(0)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


@dataclass(frozen=True)
class DinoSchedule:
    """The learning rate, the teacher's momentum and the batch of each step."""

    steps: int
    seed: int

    def momentum(self, step: int) -> float:
        """Return the teacher's momentum at a step."""
        return 1 - (1 - TEACHER_MOMENTUM) * self._decay_factor(step)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a step: it rises, is constant, and falls at the end."""
        return LEARNING_RATE * min((step + 1) / min(WARMUP_STEPS, self.steps), self._decay_factor(step))

    def _decay_factor(self, step: int) -> float:
        """Return 1, or in the last steps a linear decay to 0."""
        return min(1.0, (self.steps - step) / max(1.0, DECAY_SHARE * self.steps))

    def batches(self, scenes: SceneArrays, first: int) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        """Yield each step with its large and its small crops, which depend on seed and step alone."""
        size = min(BATCH_SIZE, len(scenes.images))
        each = len(scenes.images) // size
        for step in range(first, self.steps):
            epoch, place = divmod(step, each)
            order = torch.randperm(
                len(scenes.images), generator=torch.Generator().manual_seed(self.seed * 1_000 + epoch)
            )
            rows = order[place * size : (place + 1) * size].sort().values.numpy()
            rng = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + step)
            yield step, *make_crops(torch.from_numpy(scenes.images[rows]).float() / 255, rng)


def train_dino(
    folder: Path, scenes: Path, *, seed: int = 0, steps: int = STEPS, count: int = TRAINING_SCENES
) -> dict[str, Any]:
    """Train the network; write ``dino-objects.safetensors`` (the teacher in half precision) and its measurements.

    Args:
        folder: output folder.
        scenes: folder of rendered scenes and checkpoints.
        seed: random seed.
        steps: number of training steps.
        count: number of training scenes.

    Returns:
        The accuracies of ``evaluate_dino``.
    """
    torch.manual_seed(seed)
    pair, training_scenes = StudentTeacher(), load_scene_arrays("objects", 0, count, scenes)
    untrained = copy.deepcopy(pair.teacher.body)
    _train(pair, training_scenes, DinoSchedule(steps, seed), scenes / "training" / f"{NAME}-{seed}-{steps}-{count}.pt")
    weights = {key: value.half().contiguous() for key, value in pair.teacher.body.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{NAME}.safetensors") as path:
        save_file(weights, path)
    model = ViT().eval()
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    measured, before = evaluate_dino(model, scenes, count), evaluate_dino(untrained, scenes, count)
    facts = {"network": NAME, "held_out": measured, "held_out_untrained": before, "neighbours": NEIGHBOURS,
             "features": "class token and mean of the others", "bank": min(BANK_SIZE, count),
             "held_out_scenes": min(CHECKING_SCENES, count),
             "trained_on_scenes": count, "labels": "none", "pictures": steps * min(BATCH_SIZE, count), "steps": steps,
             "crops": {"large": list(GLOBAL), "small": list(LOCAL)}, "seed": seed,
             "parameters": sum(value.numel() for value in model.parameters()),
             "units": dict.fromkeys(MLP_LAYERS, HIDDEN)}  # fmt: skip
    with atomic_write(folder / f"{NAME}.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    return measured


def _train(pair: StudentTeacher, scenes: SceneArrays, schedule: DinoSchedule, checkpoint: Path) -> None:
    """Train with AdamW, from the checkpoint of an interrupted run if there is one."""
    student = list(pair.student.parameters())
    decayed, plain = [value for value in student if value.ndim > 1], [value for value in student if value.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    first, losses, saved = _resume(checkpoint, pair, optimizer), [], time.monotonic()
    pair.train()
    for step, large, small in track_progress(
        schedule.batches(scenes, first), total=schedule.steps - first, description=f"{NAME} from step {first}"
    ):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        loss = pair.loss(large, small)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student, 3.0)
        optimizer.step()
        pair.update_teacher(schedule.momentum(step))
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(
                f"{NAME} step {step + 1}/{schedule.steps}: loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True
            )
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, pair, optimizer, step + 1)
            saved = time.monotonic()
    checkpoint.unlink(missing_ok=True)
    pair.eval()


def _save_checkpoint(checkpoint: Path, pair: StudentTeacher, optimizer: torch.optim.Optimizer, step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(checkpoint) as path:
        torch.save({"pair": pair.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)


def _resume(checkpoint: Path, pair: StudentTeacher, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint, if there is one, and return the next step."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    pair.load_state_dict(state["pair"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


@torch.no_grad()
def evaluate_dino(model: ViT, scenes: Path, count: int = TRAINING_SCENES) -> dict[str, float]:
    """Return the accuracy in percent of nearest neighbours on held-out scenes, for the main thing and the setting.

    Features are the class token and the mean of the other tokens, standardized over the training scenes and compared by
    cosine; NEIGHBOURS neighbours vote with weights exp(cosine / 0.07) (Wu et al. 2018, as in DINO, section 4.1).
    """
    bank, held_out = (
        load_scene_arrays("objects", 0, count, scenes),
        load_scene_arrays("objects", HELD_OUT_START, min(CHECKING_SCENES, count), scenes),
    )
    features = _extract_features(model, bank, min(BANK_SIZE, count))
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    bank_features = normalize((features - mean) / spread, dim=1)
    queries = normalize((_extract_features(model, held_out, len(held_out.images)) - mean) / spread, dim=1)
    accuracies = {}
    for task, labels, truth, classes in (
        ("objects", bank.things, held_out.things, len(THINGS)),
        ("scenes", bank.settings, held_out.settings, len(SETTINGS)),
    ):
        predicted = predict_by_neighbours(
            queries, bank_features, torch.from_numpy(labels[: len(bank_features)]), classes
        )
        accuracies[task] = round(100 * (predicted == torch.from_numpy(truth)).float().mean().item(), 2)
    return accuracies


def _extract_features(model: ViT, scenes: SceneArrays, count: int) -> Tensor:
    parts = [slice(first, min(first + 250, count)) for first in range(0, count, 250)]
    return torch.cat(
        [model.forward_summary(normalize_images(torch.from_numpy(np.array(scenes.images[part])))) for part in parts]
    ).float()


def predict_by_neighbours(features: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the class that each image's nearest neighbours vote for, int64 (n,).

    Args:
        features: unit vectors of the images, (n, features).
        bank: unit vectors of labelled images, (bank, features).
        labels: class of each image of the bank, int64 (bank,).
        classes: number of classes.

    >>> predict_by_neighbours(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), 2)
    tensor([1, 0])
    """
    predictions = []
    for part in features.split(500):
        cosines, places = (part @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1)
        votes = torch.zeros(len(part), classes).scatter_add_(1, labels[places], (cosines / 0.07).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
