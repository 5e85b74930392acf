"""Where a target's weights come from, and what a family of networks answers with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from milan.targets.checkpoints import Weights, read_weights
from milan.targets.latents import Latents
from milan.targets.weights import put_weights

RANDOM = "random"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures."""

    image_size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True)
class Network:
    """A network with its weights, and how it wants its pictures; ``latents`` are what a generator is fed instead."""

    model: nn.Module
    preprocessing: Preprocessing
    latents: Latents | None = None


class Source:
    """The weights asked for: the library's pretrained ones (None), random ones ("random"), or a file's."""

    def __init__(self, weights: str | Path | None):
        self.pretrained = weights is None
        self.path = None if weights is None or weights == RANDOM else Path(weights).expanduser()

    @cached_property
    def tensors(self) -> Weights:
        """The file's tensors; empty where there is no file."""
        return read_weights(self.path) if self.path is not None else {}

    def fill(self, model: nn.Module) -> nn.Module:
        """Puts the file's weights into the network, if there is a file."""
        if self.path is not None:
            put_weights(model, self.tensors, str(self.path))
        return model
