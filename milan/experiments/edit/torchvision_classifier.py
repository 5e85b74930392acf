"""Training a classifier of torchvision from scratch on a folder of images (Hernandez et al. 2022, section 7).

The code of 2022 kept references to the best weights, which training went on to change, so that it used the last ones;
here they are copied.
"""

import json
import pickle
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.errors import BadInput
from milan.experiments.edit.config import ClassifierTraining
from milan.storage.files import atomic_write, write_text
from milan.storage.integrity import checksums, is_sound, json_or_none

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from milan.probes import Probe

FORMAT = 1
# Between two checkpoints, which are four times as large as the network.
CHECKPOINT_SECONDS = 60
NETWORK_SOURCE = '''"""The classifier that was trained here; --target FILE.py:network --weights {weights}"""

from torchvision.models import get_model

from milan import Target


def network() -> Target:
    return Target(get_model({architecture!r}, weights=None, num_classes={classes}), name={name!r}, image_size={size})
'''


def train_classifier(
    images: "Probe", validation: "Probe", config: ClassifierTraining, folder: Path, device: str = "cpu"
) -> tuple[str, Path]:
    """Train a classifier, unless the folder has it, and return its spec and its weights for ``load_target``.

    Runs are resumable: the next epoch after the last checkpoint is trained, which is at most a minute old.

    Raises:
        BadInput: torchvision has no classifier of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, script, facts = folder / "network.safetensors", folder / "network.py", folder / "network.json"
    known = {"images": images.fingerprint, "validation": validation.fingerprint, **asdict(config), "format": FORMAT}
    spec = f"{script}:network"
    found = json_or_none(facts)
    if is_sound(found, folder) and found["made"] == known:
        return spec, weights
    classes = len(images.classes or [])
    named = {"weights": weights.name, "architecture": config.architecture, "name": folder.name}
    write_text(script, NETWORK_SOURCE.format(classes=classes, size=images.size, **named))
    best = _train(spec, images, validation, config, folder / "training.pt", known, device)
    _save_weights(weights, best["weights"])
    files = checksums(folder, [weights.name, script.name])
    made = {"made": known, "epoch": best["epoch"], "loss": best["loss"], "files": files}
    write_text(facts, json.dumps(made, indent=1) + "\n")
    (folder / "training.pt").unlink(missing_ok=True)
    return spec, weights


def _train(
    spec: str,
    images: "Probe",
    validation: "Probe",
    config: ClassifierTraining,
    checkpoint: Path,
    known: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """Return the weights with the smallest loss on the validation images."""
    import torch

    from milan.targets.loading import load_target

    torch.manual_seed(config.seed)
    try:
        target = load_target(spec, weights="random", device=device)
    except ValueError as error:
        raise BadInput(f"torchvision has no classifier {config.architecture!r}: {error}") from None
    model = target.core
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    state = _resume(checkpoint, known, model, optimizer)
    learnt, held = _load_images(images), _load_images(validation)
    kept = time.monotonic()
    while state["epoch"] < config.epochs and state["epoch"] - state["best"]["epoch"] < config.patience:
        state["epoch"] += 1
        order = torch.randperm(
            len(learnt[1]), generator=torch.Generator().manual_seed(config.seed * 100_003 + state["epoch"])
        )
        _train_epoch(
            model,
            optimizer,
            ((target.prepare(learnt[0][rows]), learnt[1][rows].to(device)) for rows in order.split(config.batch_size)),
        )
        loss = _compute_loss(
            model,
            ((target.prepare(some), labels.to(device)) for some, labels in _iter_batches(held, config.batch_size)),
        )
        print(f"{checkpoint.parent.name} epoch {state['epoch']}: validation loss {loss:.4f}", flush=True)
        if loss < state["best"]["loss"]:
            state["best"] = {"epoch": state["epoch"], "loss": loss, "weights": _copy_weights(model)}
        if time.monotonic() - kept > CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, known, model, optimizer, state)
            kept = time.monotonic()
    return state["best"]


def _train_epoch(
    model: "nn.Module", optimizer: "torch.optim.Optimizer", batches: "Iterator[tuple[Tensor, Tensor]]"
) -> None:
    from torch.nn.functional import cross_entropy

    model.train()
    for given, labels in batches:
        # Batch normalization needs two images.
        if len(labels) < 2:
            continue
        optimizer.zero_grad()
        cross_entropy(model(given), labels).backward()
        optimizer.step()


def _compute_loss(model: "nn.Module", batches: "Iterator[tuple[Tensor, Tensor]]") -> float:
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for given, labels in batches:
            total += float(cross_entropy(model(given), labels, reduction="sum"))
            count += len(labels)
    return total / count


def _load_images(images: "Probe") -> "tuple[Tensor, Tensor]":
    import torch

    parts = list(images.batches(256))
    ids = torch.cat([ids for ids, _ in parts])
    return torch.cat([pixels for _, pixels in parts]), torch.tensor(images.labels)[ids]


def _iter_batches(held: "tuple[Tensor, Tensor]", size: int) -> "Iterator[tuple[Tensor, Tensor]]":
    return zip(held[0].split(size), held[1].split(size), strict=True)


def _copy_weights(model: "nn.Module") -> "dict[str, Tensor]":
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _save_checkpoint(
    checkpoint: Path, known: dict[str, Any], model: "nn.Module", optimizer: Any, state: dict[str, Any]
) -> None:
    import torch

    with atomic_write(checkpoint) as path:
        torch.save(
            {"made": known, "model": _copy_weights(model), "optimizer": optimizer.state_dict(), "state": state}, path
        )


def _resume(checkpoint: Path, known: dict[str, Any], model: "nn.Module", optimizer: Any) -> dict[str, Any]:
    """Restore the last checkpoint of the same training, or return the initial state."""
    import torch

    # There is no checkpoint, or it is damaged.
    with suppress(OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        kept = torch.load(checkpoint, weights_only=True)
        if kept["made"] == known:
            model.load_state_dict(kept["model"])
            optimizer.load_state_dict(kept["optimizer"])
            return kept["state"]
    return {"epoch": 0, "best": {"epoch": 0, "loss": float("inf"), "weights": {}}}


def _save_weights(file: Path, weights: "dict[str, Tensor]") -> None:
    from safetensors.torch import save_file

    with atomic_write(file) as path:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
