"""Trains Diorama's classifiers and its encoder, and measures them on held-out scenes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from milan.console.progress import track_progress
from milan.diorama.networks import LAYERS, NETWORK_BUILDERS, load_network
from milan.diorama.scene_cache import KINDS, SceneArrays, load_scene_arrays
from milan.diorama.scene_classifiers import HEAD_SPECS, AlexNet, ResNet, SceneEncoder, normalize_images
from milan.diorama.scene_vocabulary import COLOURS, OBJECTS, PARTS, PATTERNS, SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT_START, VALIDATION_START
from milan.storage.files import atomic_write

# Number of scenes of each world for training, and for measuring.
TRAINING_SCENES, CHECKING_SCENES = VALIDATION_START, 4_000
BATCH_SIZE = 128
EPOCHS = {"alexnet-objects": 6, "alexnet-scenes": 3, "resnet-objects": 9, "resnet-scenes": 3, "encoder": 3,
          "resnet-spurious": 14, "resnet-blurred": 7}  # fmt: skip
# resnet-spurious: about 340 scenes of each of 35 classes; Hernandez et al. 2022 (section 7) have 1,000 of each of ten
SCENES = {"resnet-spurious": 12_000, "resnet-blurred": 40_000}
WORLDS = {
    "encoder": ("objects", "scenes"),
    "resnet-spurious": ("objects-spurious",),
    "resnet-blurred": ("objects-blurred",),
}
# The networks of changed worlds are measured on these: a name, the world, and its first scene.
CHECKED_WORLDS = {
    "resnet-spurious": {"plain": ("objects", HELD_OUT_START), "spurious": ("objects-spurious", VALIDATION_START),
                        "adversarial": ("objects-spurious", HELD_OUT_START)},
    "resnet-blurred": {"plain": ("objects", HELD_OUT_START), "blurred": ("objects-blurred", HELD_OUT_START)},
}  # fmt: skip
FIRST_LABEL = {"colour": 1, "pattern": 1, "part": 0, "object": 0}  # the label counted as class 0
CLASS_COUNTS = {"colour": len(COLOURS), "pattern": len(PATTERNS), "part": len(PARTS) + 1, "object": len(OBJECTS) + 1}


def get_training_worlds(name: str) -> tuple[str, ...]:
    """Return the worlds whose scenes a network is trained on."""
    return WORLDS.get(name, (name.rpartition("-")[2],))


def train_network(
    name: str, folder: Path, scenes: Path, *, seed: int = 0, epochs: int | None = None, count: int | None = None
) -> dict[str, float]:
    """Train a network and write ``name.safetensors`` (half precision) and ``name.json`` (its measurements).

    Args:
        name: name of the network.
        folder: output folder.
        scenes: folder of rendered scenes and checkpoints.
        seed: random seed.
        epochs: number of epochs; by default that of ``EPOCHS``.
        count: number of scenes of each world; by default that of ``SCENES``.

    Returns:
        Accuracies on held-out scenes in percent.
    """
    torch.manual_seed(seed)
    model = NETWORK_BUILDERS[name]().to(memory_format=torch.channels_last)
    count = count or SCENES.get(name, TRAINING_SCENES)
    epochs, checked = epochs or EPOCHS[name], min(count, CHECKING_SCENES)
    arrays = [load_scene_arrays(world, 0, count, scenes) for world in get_training_worlds(name)]
    _train(TrainingJob(name, model, epochs, scenes / "training" / f"{name}-{seed}-{epochs}-{count}.pt"), arrays, seed)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.safetensors") as path:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    )
    measured = evaluate_network(model, name, scenes, checked)
    facts = {"network": name, "held_out": measured, "held_out_scenes": checked,
        "trained_on_scenes": count * len(arrays), "epochs": epochs,
             "seed": seed, "parameters": sum(value.numel() for value in model.parameters()),
             "units": count_units(name)}  # fmt: skip
    with atomic_write(folder / f"{name}.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    return measured


def count_units(name: str) -> dict[str, int]:
    """Return the number of units of each layer that is dissected."""
    model = load_network(name, weights=False)
    counts: dict[str, int] = {}
    for layer in LAYERS[name]:
        axis = 1 if isinstance(model, (AlexNet, ResNet)) else -1  # maps, or tokens
        model.get_submodule(layer).register_forward_hook(
            lambda _, __, maps, layer=layer, axis=axis: counts.__setitem__(layer, maps.shape[axis])
        )
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    return counts


@dataclass(frozen=True)
class TrainingJob:
    """A network to train, the number of epochs, and the file of the checkpoint that is written after each epoch."""

    name: str
    model: nn.Module
    epochs: int
    checkpoint: Path


def _train(job: TrainingJob, scenes: list[SceneArrays], seed: int) -> None:
    """Train with AdamW and one cycle of the learning rate, from the checkpoint of an interrupted run if there is one.

    Each batch is of one world, and worlds alternate.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = sum(len(each.images) // BATCH_SIZE for each in scenes) * job.epochs
    decayed = [value for value in job.model.parameters() if value.ndim > 1]
    plain = [value for value in job.model.parameters() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=1e-3
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=batches, pct_start=0.2)
    parts = {"model": job.model, "optimizer": optimizer, "schedule": schedule}
    for epoch in range(_resume(job.checkpoint, parts, generator), job.epochs):
        loss = _train_epoch(job, scenes, (optimizer, schedule), generator, f"epoch {epoch + 1}/{job.epochs}")
        print(f"{job.name} epoch {epoch + 1}/{job.epochs}: loss {loss:.4f}", flush=True)
        _save_checkpoint(job.checkpoint, parts, generator, epoch + 1)
    job.checkpoint.unlink(missing_ok=True)
    job.model.eval()


def _train_epoch(
    job: TrainingJob, scenes: list[SceneArrays], steps: tuple[Any, Any], generator: torch.Generator, text: str
) -> float:
    """Train on all scenes once and return the mean loss."""
    orders = [torch.randperm(len(each.images), generator=generator) for each in scenes]
    rows = [(each, order[first : first + BATCH_SIZE]) for first in range(0, len(orders[0]) - BATCH_SIZE + 1, BATCH_SIZE)
            for each, order in zip(scenes, orders, strict=True)]  # fmt: skip
    losses = []
    job.model.train()
    for each, order in track_progress(rows, description=f"{job.name} {text}"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(job.model, each, order, scenes[0] is each)
        steps[0].zero_grad()
        loss.backward()
        for part in steps:
            part.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _save_checkpoint(checkpoint: Path, parts: dict[str, Any], generator: torch.Generator, epoch: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(checkpoint) as path:
        torch.save({**state, "order": generator.get_state(), "dropout": torch.get_rng_state(), "epoch": epoch}, path)


def _resume(checkpoint: Path, parts: dict[str, Any], generator: torch.Generator) -> int:
    """Load a checkpoint, if there is one, and return the next epoch."""
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    generator.set_state(state["order"])
    torch.set_rng_state(state["dropout"])
    return int(state["epoch"])


def _batch(each: SceneArrays, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = order.sort().values.numpy()
    return (
        normalize_images(torch.from_numpy(each.images[rows])),
        torch.from_numpy(each.things[rows]),
        torch.from_numpy(each.settings[rows]),
    )


def _loss(model: nn.Module, each: SceneArrays, order: Tensor, objects: bool) -> Tensor:
    images, things, settings = _batch(each, order)
    if not isinstance(model, SceneEncoder):
        classes = model.get_submodule("fc" if hasattr(model, "fc") else "fc7").out_features
        return cross_entropy(
            model(images).float(), things if classes == len(THINGS) else settings, label_smoothing=0.05
        )
    logits, places = model.forward_with_heads(images)
    loss = cross_entropy(logits[:, len(THINGS) :].float(), settings, label_smoothing=0.05)
    if objects:
        loss = loss + cross_entropy(logits[:, : len(THINGS)].float(), things, label_smoothing=0.05)
    labels = torch.from_numpy(each.places[order.sort().values.numpy()])
    return loss + sum(
        cross_entropy(maps.float(), compute_label_shares(kind, labels, maps.shape[-1])) for kind, maps in places.items()
    )


def compute_label_shares(kind: str, labels: Tensor, side: int) -> Tensor:
    """Return the share of each label at each place, float (n, labels, side, side), from labels uint8 (n, 4, 16, 16)."""
    hot = (
        one_hot((labels[:, KINDS.index(kind)].long() - FIRST_LABEL[kind]), CLASS_COUNTS[kind])
        .permute(0, 3, 1, 2)
        .float()
    )
    return torch.nn.functional.adaptive_avg_pool2d(hot, side)


@torch.no_grad()
def evaluate_network(model: nn.Module, name: str, scenes: Path, count: int = CHECKING_SCENES) -> dict[str, float]:
    """Return accuracies in percent on held-out scenes; for the encoder those of both tasks and of labels at places."""
    model.eval()
    accuracies: dict[str, list[float]] = {}
    for task, (world, first) in CHECKED_WORLDS.get(
        name, {world: (world, HELD_OUT_START) for world in get_training_worlds(name)}
    ).items():
        arrays = load_scene_arrays(world, first, count, scenes)
        for order in torch.arange(count).split(250):
            images, things, settings = _batch(arrays, order)
            truth = settings if world == "scenes" else things
            logits = model(images)
            if isinstance(model, SceneEncoder):
                logits = (
                    logits[:, : len(THINGS)]
                    if world == "objects"
                    else logits[:, len(THINGS) : len(THINGS) + len(SETTINGS)]
                )
                labels = torch.from_numpy(arrays.places[order.numpy()])
                for kind, maps in model.forward_with_heads(images)[1].items():
                    accuracies.setdefault(f"{kind} at each place", []).append(
                        _percent_correct(maps, compute_label_shares(kind, labels, maps.shape[-1]))
                    )
            accuracies.setdefault(task, []).append(_percent_correct(logits, truth))
    return {task: round(100 * sum(shares) / len(shares), 2) for task, shares in accuracies.items()}


def _percent_correct(logits: Tensor, truth: Tensor) -> float:
    best = truth if truth.ndim == 1 else truth.argmax(1)
    return (logits.argmax(1) == best).float().mean().item()


assert set(HEAD_SPECS) == set(KINDS)
