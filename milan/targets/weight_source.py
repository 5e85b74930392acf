"""Where a target's weights come from, and what a family of networks answers with."""

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
    """A network with its weights; what is known of its preprocessing, if anything; what a generator is fed instead."""

    model: nn.Module
    known: KnownPreprocessing | None
    latents: Latents | None = None


class WeightSource:
    """The weights asked for: the library's pretrained ones (None), random ones ("random"), or a file's."""

    def __init__(self, weights: str | Path | None):
        self.pretrained = weights is None
        self.path = None if weights is None or weights == RANDOM else Path(weights).expanduser()

    @cached_property
    def tensors(self) -> Weights:
        """The file's tensors; empty where there is no file."""
        return read_weights(self.path) if self.path is not None else {}

    def load_into(self, model: nn.Module) -> nn.Module:
        """Puts the file's weights into the network, if there is a file."""
        if self.path is not None:
            load_weights_into(model, self.tensors, str(self.path))
        return model
