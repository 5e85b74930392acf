"""The images that a generator generates from its latents, as a probe."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from milan.errors import BadInput
from milan.probes.image_sources import ImageSource
from milan.targets.preprocessing import Size


@runtime_checkable
class ImageGenerator(Protocol):
    """An image generator, see ``milan.GeneratorTarget``."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def image_size(self) -> Size:
        """Side of its images in pixels, or height and width."""

    @property
    def labels(self) -> list[int]:
        """Class number of each image."""

    @property
    def classes(self) -> list[str]:
        """Class names; empty for a generator without classes."""

    @property
    def fingerprint(self) -> str:
        """Content key of the images."""

    def generate_image(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image of a row of latents."""


class GeneratorSource(ImageSource):
    """The images that a generator generates from its latents, on demand."""

    is_presized = True

    def __init__(self, generator: ImageGenerator):
        self.generator = generator
        # A faulty generator raises an error now.
        generator.generate_image(0)
        self._count = len(generator.labels)
        if generator.classes:
            self.classes, self.labels = list(generator.classes), list(generator.labels)

    def __len__(self) -> int:
        return self._count

    def load_image(self, index: int) -> np.ndarray:
        """Generate an image, uint8 (3, size, size)."""
        return self.generator.generate_image(index).numpy()

    def format_location(self, index: int) -> str:
        """Return the image's index and the generator's name."""
        return f"image {index} of {self.generator.name}"

    def content_facts(self) -> dict[str, Any]:
        """Return the fingerprint of the generator."""
        return {"made by": self.generator.fingerprint}


def load_generator_target(spec: str) -> ImageGenerator:
    """Load an image generator by its spec.

    Raises:
        BadInput: the network generates no images, or cannot be loaded.
        UnknownName: there is no such network.
    """
    from milan.targets.generator_target import GeneratorTarget
    from milan.targets.loading import load_target

    target = load_target(spec)
    if not isinstance(target, GeneratorTarget):
        raise BadInput(
            f"{spec} generates no images, so it has no latents; name a generator, as latents:diorama:generator-objects"
        )
    return target
