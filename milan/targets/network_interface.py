"""What the inference of layers and the fingerprint use of a target."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.targets.preprocessing import Size


@runtime_checkable
class RunnableNetwork(Protocol):
    """A network together with how it is run: the part of ``Target`` that needs no layers.

    Attributes:
        device: the device that it runs on.
        output_index: index of the tensor to use where a layer puts out several; None for the first.
        layout, prefix_tokens: as stated by the user; None where they are to be inferred.
    """

    device: torch.device
    output_index: int | None
    layout: str | None
    prefix_tokens: int | None

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def core(self) -> nn.Module:
        """The network without wrappers."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its parameters."""

    @property
    def image_size(self) -> Size:
        """Side of its square input in pixels, or height and width."""

    def noise(self, count: int, size: Size) -> Float[Tensor, "b ..."]:
        """Return fixed noise as the network takes it."""

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """Switch the network to evaluation mode within the block."""
