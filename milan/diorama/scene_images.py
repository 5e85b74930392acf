"""The images of probes: scenes that no network was trained or validated on."""

import numpy as np

from milan.diorama.scene_cache import compute_drawing_checksum
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT_START, Scene, draw_scene, get_label, parse_world
from milan.errors import BadInput
from milan.storage.files import content_key

FIRST_PROBE_SCENE = 2 * HELD_OUT_START  # the probe's first scene
PROBE_LENGTH = 3_000
JUDGE_LENGTH = 1_000  # scenes of a world ending in "@judge", which come after the usual ones


class DioramaImages:
    """A series of scenes of one world, rendered when requested.

    world: "objects", or "scenes"; either may end in "-spurious" or "-blurred", and then in "@judge": other scenes than
    the usual ones ("@learn"), to judge by what was said of those.

    >>> images = DioramaImages("objects", length=3)
    >>> len(images), images.image(2).shape, images.classes[images.label(2)] == images.scene(2).main
    (3, (3, 64, 64), True)
    """

    def __init__(
        self,
        world: str = "objects",
        *,
        size: int = 64,
        length: int | None = None,
        first: int = FIRST_PROBE_SCENE,
        seed: int = 0,
    ):
        is_judge = world.endswith("@judge")
        name, variant = parse_world(world.removesuffix("@judge").removesuffix("@learn"))
        first, length = (
            first + PROBE_LENGTH * is_judge,
            (JUDGE_LENGTH if is_judge else PROBE_LENGTH) if length is None else length,
        )
        if length < 1:
            raise BadInput(f"a probe needs at least one image, not {length}")
        self.world, self.variant = name, variant
        self.size, self.length, self.first, self.seed = size, length, first, seed
        self.classes: list[str] = list(THINGS if name == "objects" else SETTINGS)

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """Return the scene of an image, with its labels."""
        self._check(index)
        return draw_scene(self.first + index, world=self.world, seed=self.seed, size=self.size, variant=self.variant)

    def image(self, index: int) -> np.ndarray:
        """Return pixels, uint8 (3, size, size)."""
        return self.scene(index).image

    def label(self, index: int) -> int:
        """Return the index into ``classes``, without rendering the scene."""
        self._check(index)
        return get_label(self.first + index, world=self.world, seed=self.seed)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.length:
            raise BadInput(f"no image {index} in a probe of {self.length}")

    @property
    def fingerprint(self) -> str:
        """A key that changes with the requested scenes and with the renderer."""
        facts = {
            "world": self.world,
            "variant": self.variant,
            "size": self.size,
            "length": self.length,
            "first": self.first,
            "seed": self.seed,
        }
        return content_key(drawn=compute_drawing_checksum(4, self.variant), **facts)
