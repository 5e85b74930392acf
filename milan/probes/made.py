"""The pictures that a generator makes of its latents, as a probe."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from milan.errors import BadInput
from milan.preprocessing import Size
from milan.probes.sources import Source


@runtime_checkable
class Generator(Protocol):
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

    def picture(self, row: int) -> UInt8[Tensor, "3 height width"]:
        """What it makes of a row of latents."""


class Made(Source):
    """The pictures that a generator makes of its latents, made when they are asked for."""

    drawn = True

    def __init__(self, generator: Generator):
        self.generator = generator
        generator.picture(0)  # what is wrong with it is told now
        self._count = len(generator.labels)
        if generator.classes:
            self.classes, self.labels = list(generator.classes), list(generator.labels)

    def __len__(self) -> int:
        return self._count

    def picture(self, index: int) -> np.ndarray:
        return self.generator.picture(index).numpy()

    def where(self, index: int) -> str:
        return f"picture {index} of {self.generator.name}"

    def key(self) -> dict[str, Any]:
        return {"made by": self.generator.fingerprint}


def generator_named(spec: str) -> Generator:
    """The generator that ``spec`` names. Raises BadInput for a network that makes no pictures, and what ``load_target`` raises."""
    from milan.targets import GeneratorTarget, load_target

    found = load_target(spec)
    if not isinstance(found, GeneratorTarget):
        raise BadInput(f"{spec} makes no pictures, so it has no latents; name a generator, as latents:diorama:generator-objects")
    return found
