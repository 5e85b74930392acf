"""A generator of pictures under study: it is fed latents by number, and looked at by the pictures that it makes of them itself."""

import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from milan.errors import BadInput
from milan.storage import content_key
from milan.targets.latents import Latents
from milan.targets.outputs import chosen
from milan.targets.target import Target

CLOSE = 2  # levels of 255 by which a picture made again may differ: how sums are rounded depends on the machine


class GeneratorTarget(Target):
    """A generator under study. Its probe is ``latents:SPEC``, or in Python ``Probe.made_by(target)``: the pictures that it makes itself.

    Args:
        model: a module whose forward takes rows of latents and answers with pictures, (b, 3, size, size).
        latents: the rows it is fed.
        image_size: side of its pictures in pixels.
        low, high: the values of its pictures that stand for 0 and 255.
        options: name, layout, prefix_tokens, output_index, device: see :class:`Target`.
    """

    def __init__(self, model: nn.Module, latents: Latents, *, image_size: int, low: float = -1.0, high: float = 1.0, **options: Any):
        super().__init__(model, image_size=image_size, **options)
        if not low < high:
            raise BadInput(f"pictures from {low} to {high}; the first must be the smaller")
        self.latents, self.low, self.high = latents, low, high

    @property
    def labels(self) -> list[int]:
        """The class of each of its pictures."""
        return [self.latents.label(row) for row in range(self.latents.count)]

    @property
    def classes(self) -> list[str]:
        """The names of its classes; none where it has none."""
        return self.latents.classes

    @property
    def own_probe(self) -> str:
        """The spec of its own pictures; empty where it cannot be loaded by name."""
        return f"latents:{self.spec}" if self.spec and not self.weights else ""

    def feed(self, ids: Int[Tensor, " b"], images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b numbers"]:
        """The latents of those numbers, whatever the pictures."""
        return self.latents.rows(ids).to(self.device, self.dtype)

    def noise(self, count: int, size: int) -> Float[Tensor, "b numbers"]:
        """The first rows of latents."""
        return self.feed(torch.arange(count), torch.zeros(count, 3, size, size, dtype=torch.uint8))

    def prepare(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        raise BadInput(f"{self.name} makes pictures and takes none; look at it with those it makes itself: --probe {self._own}")

    def expects(self, picture: UInt8[Tensor, "3 h w"]) -> None:
        """Raises BadInput for a probe that is not of this generator's own pictures; ``picture`` is its first."""
        made = self.picture(0)
        if picture.shape != made.shape or int((picture.int() - made.int()).abs().max()) > CLOSE:
            raise BadInput(f"the probe does not show what {self.name} makes of its latents; take its own pictures: --probe {self._own}")

    def picture(self, row: int) -> UInt8[Tensor, "3 size size"]:
        """What the generator makes of a row of latents, in pixels. Always made alone, so that it is the same in any batch."""
        with torch.no_grad():
            found = chosen(self._painter(self.latents.rows(torch.tensor([row])).to(self.device, self.dtype)))
        shape = (1, 3, self.image_size, self.image_size)
        if found is None or found[1].shape != shape:
            seen = "no tensor of numbers" if found is None else f"{tuple(found[1].shape)}"
            raise BadInput(f"{self.name} puts out {seen} for one row of latents, and should {shape}; set image_size, or wrap it")
        scaled = (found[1][0].float() - self.low) / (self.high - self.low)
        return (scaled * 255).round().clamp(0, 255).to(torch.uint8).cpu()

    @cached_property
    def _painter(self) -> nn.Module:
        """A copy in evaluation mode that no hook is put on: pictures are made while the network itself is looked into."""
        return copy.deepcopy(self.core).eval().to(self.device)

    @property
    def _own(self) -> str:
        return self.own_probe or "latents:SPEC (in Python Probe.made_by(target))"

    @property
    def fingerprint(self) -> str:
        """That of the network, and of what its pictures depend on besides."""
        return content_key(network=super().fingerprint, latents=self.latents.key, range=(self.low, self.high))
