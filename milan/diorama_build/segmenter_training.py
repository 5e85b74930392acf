"""Trains the segmenter on the pixel labels of scenes, and measures it on held-out scenes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from milan.console.progress import track_progress
from milan.diorama.scene_cache import compute_drawing_checksum
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scene_vocabulary import SETTINGS
from milan.diorama.scenes import HELD_OUT_START, Scene, draw_scene
from milan.diorama.segmenter_network import (
    CLASS_NAMES,
    SceneSegmenter,
    count_classes,
    get_first_label,
    load_scene_encoder,
    load_scene_segmenter,
)
from milan.storage.files import atomic_write, content_key

SCENES, BATCH_SIZE = 38_400, 32  # each scene is rendered for one step
WORLDS = ("objects", "scenes", "objects")  # worlds of a batch's scenes, repeated
CHECKING_SCENES = 1_000  # evaluated scenes of each world
COUNTED_BATCHES = 20  # batches in which the pixels of each class are counted
# The weight of a class is (its share of the pixels + MIN_CLASS_SHARE) ** -BALANCING_POWER.
MIN_CLASS_SHARE, BALANCING_POWER = 1e-4, 0.4
CHECKPOINT_STEPS = 200  # steps between two checkpoints
MAX_LEARNING_RATE = 4e-3


def train_scene_segmenter(
    data: Path, work: Path, *, seed: int = 0, scenes: int = SCENES
) -> dict[str, dict[str, float]]:
    """Train the segmenter; write ``model.safetensors`` (half precision) and ``config.json`` into ``data/segmenter``.

    Args:
        data: folder of Diorama's data, which has the encoder in ``networks``.
        work: folder of the checkpoint.
        seed: random seed.
        scenes: number of training scenes.

    Returns:
        The scores of ``evaluate_segmenter``.
    """
    torch.manual_seed(seed)
    model = SceneSegmenter(load_scene_encoder(data)).to(memory_format=torch.channels_last)
    record = (
        work
        / f"segmenter-{content_key(seed=seed, scenes=scenes, drawn=compute_drawing_checksum(4), model=str(model))}.pt"
    )
    _train(model, scenes // BATCH_SIZE, seed, record)
    folder = data / "segmenter"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.half() if value.is_floating_point() else value for key, value in model.own_state_dict().items()
    }
    with atomic_write(folder / "model.safetensors") as path:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    measured = evaluate_segmenter(load_scene_segmenter(data), min(CHECKING_SCENES, scenes))
    parameters = sum(value.numel() for value in model.parameters() if value.requires_grad)
    facts = {"trained_on_scenes": scenes, "seed": seed, "parameters": parameters,
             "held_out_scenes": min(CHECKING_SCENES, scenes), "mean_iou": measured}  # fmt: skip
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    record.unlink(missing_ok=True)
    return measured


def _train(model: SceneSegmenter, steps: int, seed: int, checkpoint: Path) -> None:
    """Train with AdamW and one cycle of the learning rate, from the checkpoint of an interrupted run if any."""
    decayed = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    plain = [value for value in model.parameters() if value.requires_grad and value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=MAX_LEARNING_RATE
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=MAX_LEARNING_RATE, total_steps=steps, pct_start=0.2
    )
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        for part, name in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
            part.load_state_dict(state[name])
    weights = compute_class_weights(seed)
    model.train()
    losses: list[float] = []
    for step in track_progress(range(first, steps), description="segmenter"):
        loss = _loss(model, _make_batch(step, seed), step, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % CHECKPOINT_STEPS == 0:
            print(f"segmenter {step + 1}/{steps} steps: loss {np.mean(losses[-CHECKPOINT_STEPS:]):.4f}", flush=True)
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(checkpoint) as path:
                torch.save({"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                            "schedule": schedule.state_dict()}, path)  # fmt: skip
    model.eval()


def _make_batch(step: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the scenes of a step, which no other step has, and their labels."""
    drawn = [draw_scene(step * BATCH_SIZE + i, world=WORLDS[i % len(WORLDS)], seed=seed) for i in range(BATCH_SIZE)]
    return stack_images(drawn), stack_labels(drawn)


def stack_images(scenes: list[Scene]) -> Tensor:
    """Return scenes as normalized images, float32 (n, 3, size, size)."""
    return normalize_images(torch.from_numpy(np.stack([scene.image for scene in scenes])))


def stack_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Return the class of each pixel by kind, int64 (n, size, size), in the segmenter's numbering."""
    labels = {}
    for kind in CLASS_NAMES:
        if kind == "setting":
            size = scenes[0].image.shape[-1]
            labels[kind] = torch.tensor([SETTINGS.index(scene.setting) for scene in scenes])[:, None, None].expand(
                -1, size, size
            )
        else:
            labels[kind] = torch.from_numpy(
                np.stack([scene.labels[kind] for scene in scenes]).astype(np.int64)
            ) - get_first_label(kind)
    return labels


def compute_class_weights(seed: int) -> dict[str, Tensor]:
    """Return the weight of a pixel of each class, by kind: larger for rare classes, and 1 on average over pixels."""
    truths = [_make_batch(step, seed)[1] for step in range(COUNTED_BATCHES)]
    class_weights = {}
    for kind in CLASS_NAMES:
        shares = torch.bincount(
            torch.cat([truth[kind].flatten() for truth in truths]), minlength=count_classes(kind)
        ).double()
        shares /= shares.sum()
        weights = (shares + MIN_CLASS_SHARE) ** -BALANCING_POWER
        class_weights[kind] = (weights / (weights * shares).sum()).float()
    return class_weights


def _loss(
    model: SceneSegmenter, batch: tuple[Tensor, dict[str, Tensor]], step: int, weights: dict[str, Tensor]
) -> Tensor:
    """Return the summed cross entropies of all kinds at a quarter of the pixels, which depends on the step.

    Neighbouring pixels have nearly the same labels, so every second pixel of every second row is enough.
    """
    images, truth = batch
    down, across = step % 2, step // 2 % 2
    with torch.autocast("cpu", torch.bfloat16):
        trunk, _ = model.forward_features(images)
        logits_by_kind = {kind: head(trunk[:, :, down::2, across::2]) for kind, head in model.heads.items()}
    return torch.stack([cross_entropy(logits.float(), truth[kind][:, down::2, across::2], weights[kind])
                        for kind, logits in logits_by_kind.items()]).sum()  # fmt: skip


def iter_held_out_scenes(world: str, count: int) -> Iterator[list[Scene]]:
    """Yield held-out scenes, fifty at a time."""
    for first in range(0, count, 50):
        yield [draw_scene(HELD_OUT_START + index, world=world) for index in range(first, min(first + 50, count))]


@torch.no_grad()
def evaluate_segmenter(model: SceneSegmenter, count: int = CHECKING_SCENES) -> dict[str, dict[str, float]]:
    """Measure how well each kind of label is predicted on held-out scenes of each world.

    Returns the mean over a kind's names of intersection over union, 0..1, all scenes taken together, by world and kind;
    "nothing" is not a name, and a name that no scene shows does not count (NaN where none of a kind's is shown).
    """
    return {world: _compute_mean_ious(model, world, count) for world in ("objects", "scenes")}


def _compute_mean_ious(model: SceneSegmenter, world: str, count: int) -> dict[str, float]:
    confused = {kind: torch.zeros(count_classes(kind) ** 2, dtype=torch.int64) for kind in CLASS_NAMES}
    for scenes in iter_held_out_scenes(world, count):
        truth, logits = stack_labels(scenes), model(stack_images(scenes))
        for kind, total in confused.items():
            pairs = truth[kind] * count_classes(kind) + logits[kind].argmax(1)
            total += torch.bincount(pairs.flatten(), minlength=len(total))
    return {
        kind: round(_compute_mean_iou(total.view(count_classes(kind), -1), 1 - get_first_label(kind)), 4)
        for kind, total in confused.items()
    }


def _compute_mean_iou(confused: Tensor, first: int) -> float:
    """Return the mean IoU of a confusion matrix (truth x prediction), without the classes before ``first``.

    >>> _compute_mean_iou(torch.tensor([[9, 0, 0], [0, 2, 2], [0, 0, 0]]), 1)
    0.5
    """
    correct = confused.diagonal()
    actual = confused.sum(1)
    overlaps = correct / (actual + confused.sum(0) - correct).clamp(min=1)
    return float(overlaps[first:][actual[first:] > 0].double().mean())
