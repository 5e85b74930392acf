"""A generator of pictures under study: it is fed latents by number, and looked at by the pictures that it makes of them
itself.
"""

import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from milan.errors import BadInput
from milan.storage.files import content_key
from milan.targets.latents import Latents
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Size, height_width
from milan.targets.target import Target

MAX_LEVEL_DIFFERENCE = (
    2  # levels of 255 by which a picture made again may differ: how sums are rounded depends on the machine
)


class GeneratorTarget(Target):
    """A generator under study. Its probe is ``latents:SPEC``, or in Python ``Probe.from_generator(target)``: the
    pictures that it makes itself.

    Args:
        model: a module whose forward takes rows of latents and answers with pictures, (b, 3, height, width), or grey
            ones, (b, 1, height, width).
        latents: the rows it is fed.
        image_size: side of its pictures in pixels, or height and width.
        low, high: the values of its pictures that stand for 0 and 255.
        options: name, layout, prefix_tokens, output_index, device: see :class:`Target`.
    """

    def __init__(
        self,
        model: nn.Module,
        latents: Latents,
        *,
        image_size: Size,
        low: float = -1.0,
        high: float = 1.0,
        **options: Any,
    ):
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
    def generated_probe_spec(self) -> str:
        """The spec of its own pictures; empty where it cannot be loaded by name."""
        return f"latents:{self.spec}" if self.spec and not self.weights else ""

    @torch.no_grad()
    def __call__(self, rows: Int[Tensor, " b"]) -> Any:
        """Return the network's output for rows of its latents, computed in evaluation mode and without gradients."""
        inputs = self.latents.rows(rows).to(self.device, self.dtype)
        with self.evaluation_mode():
            return self.core(inputs)

    def make_input(self, ids: Int[Tensor, " b"], images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b numbers"]:
        """The latents of those numbers, whatever the pictures."""
        return self.latents.rows(ids).to(self.device, self.dtype)

    def make_noise(self, count: int, size: Size) -> Float[Tensor, "b numbers"]:
        """The first rows of latents."""
        return self.make_input(torch.arange(count), torch.zeros(count, 3, *height_width(size), dtype=torch.uint8))

    def preprocess(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        raise BadInput(
            f"{self.name} makes pictures and takes none; look at it with those it makes itself: --probe"
            f" {self._network_fingerprint}"
        )

    def check_probe_image(self, picture: UInt8[Tensor, "3 h w"]) -> None:
        """Raises BadInput for a probe that is not of this generator's own pictures; ``generate_image`` is its first."""
        made = self.generate_image(0)
        if picture.shape != made.shape or int((picture.int() - made.int()).abs().max()) > MAX_LEVEL_DIFFERENCE:
            raise BadInput(
                f"the probe does not show what {self.name} makes of its latents; take its own pictures: --probe"
                f" {self._network_fingerprint}"
            )

    def generate_image(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """What the generator makes of a row of latents, in pixels. Always made alone, so that it is the same in any
        batch.
        """
        with torch.no_grad():
            found = select_tensor(
                self._generator_copy(self.latents.rows(torch.tensor([row])).to(self.device, self.dtype))
            )
        shape = (1, 3, *height_width(self.image_size))
        if found is not None and found[1].shape == (1, 1, *shape[2:]):
            found = found[0], found[1].expand(shape)
        if found is None or found[1].shape != shape:
            seen = "no tensor of numbers" if found is None else f"{tuple(found[1].shape)}"
            raise BadInput(
                f"{self.name} puts out {seen} for one row of latents, and should {shape}; set image_size, or wrap it"
            )
        scaled = (found[1][0].float() - self.low) / (self.high - self.low)
        return (scaled * 255).round().clamp(0, 255).to(torch.uint8).cpu()

    @cached_property
    def _generator_copy(self) -> nn.Module:
        """A copy in evaluation mode that no hook is put on: pictures are made while the network itself is
        looked into.
        """
        return copy.deepcopy(self.core).eval().to(self.device)

    @property
    def _network_fingerprint(self) -> str:
        return self.generated_probe_spec or "latents:SPEC (in Python Probe.made_by(target))"

    @property
    def fingerprint(self) -> str:
        """That of the network, and of what its pictures depend on besides."""
        return content_key(network=super().fingerprint, latents=self.latents.key, range=(self.low, self.high))
