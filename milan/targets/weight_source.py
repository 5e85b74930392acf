"""The source of a target's weights, and a loaded network."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from milan.targets.checkpoints import Weights, read_weights
from milan.targets.latents import Latents
from milan.targets.library_transforms import KnownPreprocessing
from milan.targets.weight_files import load_weights_into

RANDOM = "random"


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights, its preprocessing if it is known, and the latents of a generator."""

    model: nn.Module
    known: KnownPreprocessing | None
    latents: Latents | None = None


class WeightSource:
    """The requested weights: the library's pretrained ones (None), random ones ("random"), or those of a file."""

    def __init__(self, weights: str | Path | None):
        self.pretrained = weights is None
        self.path = None if weights is None or weights == RANDOM else Path(weights).expanduser()

    @cached_property
    def tensors(self) -> Weights:
        """Tensors of the file; empty if there is none."""
        return read_weights(self.path) if self.path is not None else {}

    def load_into(self, model: nn.Module) -> nn.Module:
        """Load the file's weights, if there is a file, into a network and return it."""
        if self.path is not None:
            load_weights_into(model, self.tensors, str(self.path))
        return model
