"""What a row of scenes shows, pixel by pixel, in a form that answers any question of overlap at once.

Every pixel has one *signature*: its colour, pattern, part, object, letter and the scene's setting. There are some ten
thousand different ones in thousands of scenes, so to know how a unit's masks overlap with any concept, or with anything
made of concepts by and, or and not, it is enough to know how many of its pixels have each signature.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from milan.console.progress import track_progress
from milan.diorama.scene_concepts import ALL_KINDS, Concept, ParsedConcepts, list_concepts
from milan.diorama.scene_images import DioramaImages
from milan.diorama.scene_vocabulary import SETTINGS
from milan.diorama.scenes import Scene
from milan.storage.files import atomic_write

KINDS = tuple(ALL_KINDS)
KIND_SIZES = tuple(len(names) + 1 for names in ALL_KINDS.values())


def encode_labels(scene: Scene) -> np.ndarray:
    """Each pixel's labels of all kinds as one number, int64 (size, size)."""
    shape = scene.labels["colour"].shape
    values = {**scene.labels, "setting": np.full(shape, SETTINGS.index(scene.setting) + 1)}
    return np.ravel_multi_index([values[kind].astype(np.int64) for kind in KINDS], KIND_SIZES)


@dataclass(frozen=True)
class LabelSignatures:
    """The signatures in a row of scenes.

    pixels: int32 (images, size, size), the number of each pixel's signature;
    table: uint8 (signatures, 6), its labels in the order of KINDS.
    """

    pixels: np.ndarray
    table: np.ndarray

    @classmethod
    def from_images(cls, images: DioramaImages, folder: Path | None = None) -> "LabelSignatures":
        """Draws every scene and counts; kept in ``folder``, by the images' fingerprint, if one is given."""

        def drawn() -> np.ndarray:
            rows = track_progress(range(len(images)), description=f"looking at {len(images)} scenes")
            return np.stack([encode_labels(images.scene(index)) for index in rows])

        return cls.kept(folder / f"census-{images.fingerprint}", drawn) if folder else cls.from_codes(drawn())

    @classmethod
    def kept(cls, home: Path, numbers: Callable[[], np.ndarray]) -> "LabelSignatures":
        """Read the census in a folder; it is made of ``numbers`` (see ``from_codes``) if it is missing or damaged."""
        with suppress(OSError, ValueError, EOFError):
            return cls(np.load(home / "pixels.npy", mmap_mode="r"), np.load(home / "table.npy"))
        signatures = cls.from_codes(numbers())
        home.mkdir(parents=True, exist_ok=True)
        for name, array in (("pixels", signatures.pixels), ("table", signatures.table)):
            with atomic_write(home / f"{name}.npy") as path:
                np.save(path, array)
        return signatures

    @classmethod
    def from_codes(cls, numbers: np.ndarray) -> "LabelSignatures":
        """From what ``encode_labels`` gives for each scene, int64 (images, size, size)."""
        found, which = np.unique(numbers, return_inverse=True)
        table = np.stack(np.unravel_index(found, KIND_SIZES), axis=1).astype(np.uint8)
        return cls(which.reshape(numbers.shape).astype(np.int32), table)

    @cached_property
    def area(self) -> np.ndarray:
        """How many pixels have each signature, int64 (signatures,)."""
        return np.bincount(np.asarray(self.pixels).ravel(), minlength=len(self.table))

    @cached_property
    def has_concept(self) -> sparse.csr_matrix:
        """Which signature shows which concept, 0 or 1, (signatures, concepts); the concepts as ``list_concepts()``
        orders them.
        """
        return sparse.csr_matrix(
            np.stack([self.concept_mask(concept) for concept in list_concepts()], axis=1).astype(np.float64)
        )

    def concept_mask(self, concept: Concept) -> np.ndarray:
        """Which signatures show a concept, bool (signatures,)."""
        found = np.zeros(len(self.table), dtype=bool)
        for kind, name in concept.members:
            found |= self.table[:, KINDS.index(kind)] == ALL_KINDS[kind].index(name) + 1
        return found if concept.holds else ~found

    def text_mask(self, reading: ParsedConcepts) -> np.ndarray:
        """Which signatures show what a text says, bool (signatures,)."""
        found = np.zeros(len(self.table), dtype=bool)
        for phrase in reading.phrases:
            every = np.ones(len(self.table), dtype=bool)
            for group in phrase:
                every &= np.logical_or.reduce([self.concept_mask(concept) for concept in group])
            found |= every
        return found

    def count_pixels(self, images: np.ndarray, masks: np.ndarray) -> sparse.csr_matrix:
        """How many pixels of each signature lie inside each unit's masks, (units, signatures).

        images: int (n,), rows of the census; masks: bool (n, units, size, size).
        """
        n, units = masks.shape[:2]
        image, unit, pixel = np.nonzero(masks.reshape(n, units, -1))
        signature = np.asarray(self.pixels[images]).reshape(n, -1)[image, pixel]
        ones = np.ones(len(unit), dtype=np.int64)
        return sparse.coo_matrix((ones, (unit, signature)), shape=(units, len(self.table))).tocsr()
