"""Training a classifier of torchvision from scratch on labelled images (Hernandez et al. 2022, section 7).

The code of 2022 kept references to the best weights, which training went on to change, so that it used the last ones;
here the weights of the best epoch are used.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from jaxtyping import Int, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from milan.errors import BadInput
from milan.experiments.edit.config import ClassifierTraining
from milan.models.data_module import EpochBatchSampler, TrainingProgress
from milan.models.lightning_modules import TrainingModule
from milan.models.training import TrainingConfig, train
from milan.storage.files import atomic_write, content_key, write_text
from milan.storage.integrity import checksums, is_sound, json_or_none
from milan.targets.loading import load_target
from milan.targets.target import Target

if TYPE_CHECKING:
    from milan.probes import Probe

FORMAT = 2
NETWORK_SOURCE = '''"""The classifier that was trained here; --target FILE.py:network --weights {weights}"""

from torchvision.models import get_model

from milan import Target


def network() -> Target:
    return Target(get_model({architecture!r}, weights=None, num_classes={classes}), name={name!r}, image_size={size})
'''


class LabelledImages(NamedTuple):
    """A batch of images with their classes."""

    images: UInt8[Tensor, "b 3 height width"]
    labels: Int[Tensor, " b"]


class ClassifierModule(TrainingModule):
    """Trains a classifier; the validation metric is the cross entropy of held-out images.

    Args:
        model: the classifier.
        prepare: turns images into the classifier's input.
        learning_rate: of AdamW.
    """

    metric: ClassVar[str] = "validation_loss"
    mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Tensor], learning_rate: float):
        super().__init__(model)
        self.prepare, self.learning_rate = prepare, learning_rate

    def training_step(  # type: ignore[override]
        self, batch: LabelledImages, _index: int
    ) -> Tensor | None:
        """Return the loss of a batch; None for a single image, since batch normalization needs two."""
        if len(batch.labels) < 2:
            return None
        loss = self._compute_loss(batch)
        self.last_loss = loss.detach()
        return loss

    def validation_step(self, batch: LabelledImages, _index: int) -> None:
        """Log the cross entropy of a batch of held-out images."""
        self.log(self.metric, self._compute_loss(batch), batch_size=len(batch.labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with a constant learning rate."""
        return torch.optim.AdamW(self.model.parameters(), self.learning_rate)

    def _compute_loss(self, batch: LabelledImages) -> Tensor:
        return cross_entropy(self.model(self.prepare(batch.images)), batch.labels)


class LabelledImagesDataModule(pl.LightningDataModule):
    """Batches of training images, in another order in each epoch, and of held-out images.

    Args:
        images: training images with labels.
        validation: held-out images with labels.
        batch_size: images per batch.
        seed: random seed of the orders.
    """

    def __init__(self, images: "Probe", validation: "Probe", batch_size: int, seed: int):
        super().__init__()
        self.images, self.validation, self.batch_size, self.seed = images, validation, batch_size, seed

    def setup(self, stage: str) -> None:
        """Decode all images."""
        self.parts = [_load_images(probe) for probe in (self.images, self.validation)]

    def train_dataloader(self) -> DataLoader:
        """Return batches of training images in an order that depends on the seed and the epoch."""
        count, progress = len(self.parts[0].labels), lambda: TrainingProgress.read(self.trainer)
        return self._make_loader(self.parts[0], EpochBatchSampler(count, self.batch_size, self.seed, progress))

    def val_dataloader(self) -> DataLoader:
        """Return batches of held-out images in their order."""
        held = self.parts[1]
        return self._make_loader(held, BatchSampler(SequentialSampler(held.labels), self.batch_size, drop_last=False))

    def _make_loader(self, data: LabelledImages, batches: Any) -> DataLoader:
        def collate(rows: list[int]) -> LabelledImages:
            return LabelledImages(data.images[rows], data.labels[rows])

        return DataLoader(range(len(data.labels)), batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]


def train_classifier(
    images: "Probe", validation: "Probe", config: ClassifierTraining, folder: Path, device: str = "cpu"
) -> tuple[str, Path]:
    """Train a classifier, unless the folder has it, and return its spec and its weights for ``load_target``.

    Runs are resumable from their last checkpoint, which is at most half a minute old.

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
    write_text(script, _format_source(config.architecture, images, folder.name, weights.name))
    torch.manual_seed(config.seed)
    target = _load_random(spec, config.architecture, device)
    module = ClassifierModule(target.core.train(), target.prepare, config.learning_rate)
    data = LabelledImagesDataModule(images, validation, config.batch_size, config.seed)
    # A folder of its own for each training, so that none resumes from another's checkpoint.
    checkpoints = folder / f"training-{content_key(**known)[:12]}"
    how = TrainingConfig(max_epochs=config.epochs, patience=config.patience, device=device, out=checkpoints)
    network, log = train(module, data, how)
    print(f"{folder.name}: {log['epochs']} epochs, validation loss {log[module.metric]:.4f}", flush=True)
    with atomic_write(weights) as path:
        save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, path)
    made = {"made": known, **log, "files": checksums(folder, [weights.name, script.name])}
    write_text(facts, json.dumps(made, indent=1) + "\n")
    shutil.rmtree(checkpoints)
    return spec, weights


def _format_source(architecture: str, images: "Probe", name: str, weights: str) -> str:
    classes = len(images.classes or [])
    return NETWORK_SOURCE.format(
        classes=classes, size=images.size, weights=weights, architecture=architecture, name=name
    )


def _load_random(spec: str, architecture: str, device: str) -> Target:
    try:
        return load_target(spec, weights="random", device=device)
    except ValueError as error:
        raise BadInput(f"torchvision has no classifier {architecture!r}: {error}") from None


def _load_images(images: "Probe") -> LabelledImages:
    parts = list(images.batches(256))
    ids = torch.cat([ids for ids, _ in parts])
    return LabelledImages(torch.cat([pixels for _, pixels in parts]), torch.tensor(images.labels)[ids])
