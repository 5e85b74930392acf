"""The pictures that a generator makes of its latents, as a probe."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from milan.errors import BadInput
from milan.probes.image_sources import ImageSource
from milan.targets.preprocessing import Size


@runtime_checkable
class ImageGenerator(Protocol):
    """What makes the pictures: see ``milan.targets.GeneratorTarget``."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def image_size(self) -> Size:
        """Side of its pictures in pixels, or height and width."""

    @property
    def labels(self) -> list[int]:
        """The class of each picture."""

    @property
    def classes(self) -> list[str]:
        """Their names; none where it has no classes."""

    @property
    def fingerprint(self) -> str:
        """Changes when the pictures do."""

    def generate_image(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """What it makes of a row of latents."""


class GeneratorSource(ImageSource):
    """The pictures that a generator makes of its latents, made when they are asked for."""

    is_presized = True

    def __init__(self, generator: ImageGenerator):
        self.generator = generator
        generator.generate_image(0)  # what is wrong with it is told now
        self._count = len(generator.labels)
        if generator.classes:
            self.classes, self.labels = list(generator.classes), list(generator.labels)

    def __len__(self) -> int:
        return self._count

    def load_image(self, index: int) -> np.ndarray:
        return self.generator.generate_image(index).numpy()

    def format_location(self, index: int) -> str:
        return f"picture {index} of {self.generator.name}"

    def content_facts(self) -> dict[str, Any]:
        return {"made by": self.generator.fingerprint}


def load_generator_target(spec: str) -> ImageGenerator:
    """The generator that ``spec`` names. Raises BadInput for a network that makes no pictures, and what ``load_target``
    raises.
    """
    from milan.targets.generator_target import GeneratorTarget
    from milan.targets.loading import load_target

    found = load_target(spec)
    if not isinstance(found, GeneratorTarget):
        raise BadInput(
            f"{spec} makes no pictures, so it has no latents; name a generator, as latents:diorama:generator-objects"
        )
    return found
