"""An image generator under study, whose probe consists of the images that it generates from its latents."""

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

# Levels of 255 by which a generated image may differ between machines, which round sums differently.
MAX_LEVEL_DIFFERENCE = 2


class GeneratorTarget(Target):
    """An image generator under study.

    Its probe is ``latents:SPEC``, or in Python ``Probe.from_generator(target)``: the images that it generates.

    Args:
        model: a module whose forward takes rows of latents and returns RGB images (b, 3, height, width) or grey ones
            (b, 1, height, width).
        latents: the rows of its input.
        image_size: side of the generated images in pixels, or height and width.
        low, high: output values that correspond to the pixel values 0 and 255.
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
            raise BadInput(f"low is {low} and high is {high}; low must be smaller than high")
        self.latents, self.low, self.high = latents, low, high

    @property
    def labels(self) -> list[int]:
        """Class number of each generated image."""
        return [self.latents.label(row) for row in range(self.latents.count)]

    @property
    def classes(self) -> list[str]:
        """Class names; empty for a generator without classes."""
        return self.latents.classes

    @property
    def generated_probe_spec(self) -> str:
        """Spec of the probe of generated images; empty if the generator cannot be loaded by name."""
        return f"latents:{self.spec}" if self.spec and not self.weights else ""

    @torch.no_grad()
    def __call__(self, rows: Int[Tensor, " b"]) -> Any:
        """Return the network's output for rows of its latents, computed in evaluation mode and without gradients."""
        inputs = self.latents.rows(rows).to(self.device, self.dtype)
        with self.evaluation_mode():
            return self.core(inputs)

    def make_input(self, ids: Int[Tensor, " b"], images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b numbers"]:
        """Return the latents of the given rows; the images are ignored."""
        return self.latents.rows(ids).to(self.device, self.dtype)

    def noise(self, count: int, size: Size) -> Float[Tensor, "b numbers"]:
        """Return the first rows of latents."""
        return self.make_input(torch.arange(count), torch.zeros(count, 3, *height_width(size), dtype=torch.uint8))

    def prepare(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Raise BadInput: a generator takes latents, not images."""
        raise BadInput(
            f"{self.name} generates images and takes none; use the images that it generates: --probe {self._probe_hint}"
        )

    def check_probe_image(self, picture: UInt8[Tensor, "3 h w"]) -> None:
        """Raise BadInput unless the first image of a probe is the first image that the generator generates."""
        own = self.generate_image(0)
        if picture.shape != own.shape or int((picture.int() - own.int()).abs().max()) > MAX_LEVEL_DIFFERENCE:
            text = f"the probe does not consist of the images that {self.name} generates"
            raise BadInput(f"{text}; use them: --probe {self._probe_hint}")

    def generate_image(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image that the generator generates from a row of latents, always in a batch of one."""
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
        """A copy in evaluation mode without hooks, since images are generated while the network is being recorded."""
        return copy.deepcopy(self.core).eval().to(self.device)

    @property
    def _probe_hint(self) -> str:
        return self.generated_probe_spec or "latents:SPEC (in Python Probe.from_generator(target))"

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the network, its latents, and the range of its output."""
        return content_key(network=super().fingerprint, latents=self.latents.key, range=(self.low, self.high))
