"""The pictures that probes show: scenes that no network was trained on or checked with."""

import numpy as np

from milan.diorama.album import checksum
from milan.diorama.names import SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT, Scene, draw, label, parted
from milan.errors import BadInput
from milan.storage import content_key

FIRST = 2 * HELD_OUT  # the probe's first scene
LENGTH = 3_000
JUDGED = 1_000  # scenes of a world ending in "@judge", which come after the usual ones


class DioramaImages:
    """A row of scenes of one world, drawn when asked for.

    world: "objects", or "scenes"; either may end in "-spurious" or "-blurred", and then in "@judge": other scenes than the usual ones
    ("@learn"), to judge by what was said of those.

    >>> images = DioramaImages("objects", length=3)
    >>> len(images), images.image(2).shape, images.classes[images.label(2)] == images.scene(2).main
    (3, (3, 64, 64), True)
    """

    def __init__(self, world: str = "objects", *, size: int = 64, length: int | None = None, first: int = FIRST, seed: int = 0):
        judged = world.endswith("@judge")
        name, variant = parted(world.removesuffix("@judge").removesuffix("@learn"))
        first, length = first + LENGTH * judged, (JUDGED if judged else LENGTH) if length is None else length
        if length < 1:
            raise BadInput(f"a probe needs at least one image, not {length}")
        self.world, self.variant = name, variant
        self.size, self.length, self.first, self.seed = size, length, first, seed
        self.classes: list[str] = list(THINGS if name == "objects" else SETTINGS)

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The scene behind an image, with its labels."""
        self._check(index)
        return draw(self.first + index, world=self.world, seed=self.seed, size=self.size, variant=self.variant)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 (3, size, size)."""
        return self.scene(index).image

    def label(self, index: int) -> int:
        """Index into ``classes``, without drawing the scene."""
        self._check(index)
        return label(self.first + index, world=self.world, seed=self.seed)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.length:
            raise BadInput(f"no image {index} in a probe of {self.length}")

    @property
    def fingerprint(self) -> str:
        """Changes when the pictures do: what is asked for, and a checksum of what the drawing program draws."""
        facts = {
            "world": self.world,
            "variant": self.variant,
            "size": self.size,
            "length": self.length,
            "first": self.first,
            "seed": self.seed,
        }
        return content_key(drawn=checksum(4, self.variant), **facts)
