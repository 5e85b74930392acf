"""Trains the labeller on the labels of every pixel of scenes, and measures it on scenes it has not seen."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from milan.diorama.album import checksum
from milan.diorama.labeller import NAMES, Labeller, classes, first_label, load_encoder, load_labeller
from milan.diorama.names import SETTINGS
from milan.diorama.scenes import HELD_OUT, Scene, draw
from milan.diorama.training import prepared
from milan.progress import progress
from milan.storage import atomic, content_key

SCENES, BATCH = 38_400, 32  # each scene is drawn for its one step and never seen again
WORLDS = ("objects", "scenes", "objects")  # of the scenes of a batch, in turn
CHECKING = 1_000  # scenes of each world to check with
COUNTED = 20  # batches in which it is counted how rare each class is
RAREST, EVENNESS = 1e-4, 0.4  # a class counts by its share of the pixels, and no less than the rarest, to the power of minus this
KEPT = 200  # steps between two records of how far training is
PEAK = 4e-3  # learning rate


def train_labeller(data: Path, work: Path, *, seed: int = 0, scenes: int = SCENES) -> dict[str, dict[str, float]]:
    """Trains, writes ``model.safetensors`` (half precision) and ``config.json`` (what was measured) into ``data/segmenter``.

    The encoder must be in ``data/networks`` already. work: where a run that was killed finds how far it was.
    Returns what ``check_labeller`` measured.
    """
    torch.manual_seed(seed)
    model = Labeller(load_encoder(data)).to(memory_format=torch.channels_last)
    record = work / f"segmenter-{content_key(seed=seed, scenes=scenes, drawn=checksum(4), model=str(model))}.pt"
    _fit(model, scenes // BATCH, seed, record)
    folder = data / "segmenter"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in model.learnt().items()}
    with atomic(folder / "model.safetensors") as path:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    measured = check_labeller(load_labeller(data), min(CHECKING, scenes))
    parameters = sum(value.numel() for value in model.parameters() if value.requires_grad)
    facts = {"trained_on_scenes": scenes, "seed": seed, "parameters": parameters,
             "held_out_scenes": min(CHECKING, scenes), "mean_iou": measured}  # fmt: skip
    with atomic(folder / "config.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    record.unlink(missing_ok=True)
    return measured


def _fit(model: Labeller, steps: int, seed: int, record: Path) -> None:
    """AdamW with one cycle of the learning rate; goes on from the record of a run that was killed."""
    decayed = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    plain = [value for value in model.parameters() if value.requires_grad and value.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=PEAK)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps, pct_start=0.2)
    first = 0
    if record.is_file():
        state = torch.load(record, weights_only=True)
        first = state["step"]
        for part, name in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
            part.load_state_dict(state[name])
    weights = rarity(seed)
    model.train()
    losses: list[float] = []
    for step in progress(range(first, steps), text="segmenter"):
        loss = _loss(model, _batch(step, seed), step, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % KEPT == 0:
            print(f"segmenter {step + 1}/{steps} steps: loss {np.mean(losses[-KEPT:]):.4f}", flush=True)
            record.parent.mkdir(parents=True, exist_ok=True)
            with atomic(record) as path:
                torch.save({"step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                            "schedule": schedule.state_dict()}, path)  # fmt: skip
    model.eval()


def _batch(step: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The scenes of a step, which are those of no other step, and their labels."""
    drawn = [draw(step * BATCH + i, world=WORLDS[i % len(WORLDS)], seed=seed) for i in range(BATCH)]
    return pictures(drawn), labelled(drawn)


def pictures(scenes: list[Scene]) -> Tensor:
    """Scenes as Diorama's networks want them, float32 (n, 3, size, size)."""
    return prepared(torch.from_numpy(np.stack([scene.image for scene in scenes])))


def labelled(scenes: list[Scene]) -> dict[str, Tensor]:
    """The class of each pixel by kind, int64 (n, size, size), as the labeller counts classes."""
    found = {}
    for kind in NAMES:
        if kind == "setting":
            size = scenes[0].image.shape[-1]
            found[kind] = torch.tensor([SETTINGS.index(scene.setting) for scene in scenes])[:, None, None].expand(-1, size, size)
        else:
            found[kind] = torch.from_numpy(np.stack([scene.labels[kind] for scene in scenes]).astype(np.int64)) - first_label(kind)
    return found


def rarity(seed: int) -> dict[str, Tensor]:
    """What a pixel of each class counts: more for classes that are rarely seen, 1 on average over pixels."""
    truths = [_batch(step, seed)[1] for step in range(COUNTED)]
    found = {}
    for kind in NAMES:
        shares = torch.bincount(torch.cat([truth[kind].flatten() for truth in truths]), minlength=classes(kind)).double()
        shares /= shares.sum()
        weights = (shares + RAREST) ** -EVENNESS
        found[kind] = (weights / (weights * shares).sum()).float()
    return found


def _loss(model: Labeller, batch: tuple[Tensor, dict[str, Tensor]], step: int, weights: dict[str, Tensor]) -> Tensor:
    """Cross-entropies of all kinds at every second pixel of every second row, which ones by the step: neighbours say much the same."""
    images, truth = batch
    down, across = step % 2, step // 2 % 2
    with torch.autocast("cpu", torch.bfloat16):
        trunk, _ = model.features(images)
        judged = {kind: head(trunk[:, :, down::2, across::2]) for kind, head in model.heads.items()}
    return torch.stack([cross_entropy(logits.float(), truth[kind][:, down::2, across::2], weights[kind])
                        for kind, logits in judged.items()]).sum()  # fmt: skip


def held_out(world: str, count: int) -> Iterator[list[Scene]]:
    """Scenes that nothing was trained on, fifty at a time."""
    for first in range(0, count, 50):
        yield [draw(HELD_OUT + index, world=world) for index in range(first, min(first + 50, count))]


@torch.no_grad()
def check_labeller(model: Labeller, count: int = CHECKING) -> dict[str, dict[str, float]]:
    """How well each kind of label is told on held-out scenes of each world.

    Returns the mean over a kind's names of intersection over union, 0..1, all scenes taken together, by world and kind; "nothing" is not
    a name, and a name that no scene shows does not count (NaN where none of a kind's is shown).
    """
    return {world: _mean_overlaps(model, world, count) for world in ("objects", "scenes")}


def _mean_overlaps(model: Labeller, world: str, count: int) -> dict[str, float]:
    confused = {kind: torch.zeros(classes(kind) ** 2, dtype=torch.int64) for kind in NAMES}
    for scenes in held_out(world, count):
        truth, judged = labelled(scenes), model(pictures(scenes))
        for kind, total in confused.items():
            pairs = truth[kind] * classes(kind) + judged[kind].argmax(1)
            total += torch.bincount(pairs.flatten(), minlength=len(total))
    return {kind: round(_mean_iou(total.view(classes(kind), -1), 1 - first_label(kind)), 4) for kind, total in confused.items()}


def _mean_iou(confused: Tensor, first: int) -> float:
    """Of the confusion matrix of a kind (truth x answer), leaving out the classes before ``first``.

    >>> _mean_iou(torch.tensor([[9, 0, 0], [0, 2, 2], [0, 0, 0]]), 1)
    0.5
    """
    right = confused.diagonal()
    shown = confused.sum(1)
    overlaps = right / (shown + confused.sum(0) - right).clamp(min=1)
    return float(overlaps[first:][shown[first:] > 0].double().mean())
