"""Signatures: the labels of each pixel in a series of scenes, with every combination of labels stored once.

A pixel's *signature* is its colour, pattern, part, object, letter and the scene's setting. Thousands of scenes have
some ten thousand different signatures. How many pixels of each lie in a unit's masks, and how active the unit is on
them, therefore tells how the unit relates to any formula of concepts.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from milan.console.progress import track_progress
from milan.diorama.formulas import evaluate_formula
from milan.diorama.scene_concepts import ALL_KINDS, Concept, list_concepts
from milan.diorama.scene_images import DioramaImages
from milan.diorama.scene_vocabulary import SETTINGS
from milan.diorama.scenes import Scene
from milan.diorama.text_reader import ParsedDescription
from milan.storage.files import atomic_write

KINDS = tuple(ALL_KINDS)
KIND_SIZES = tuple(len(names) + 1 for names in ALL_KINDS.values())


def encode_labels(scene: Scene) -> np.ndarray:
    """Return each pixel's labels of all kinds as one number, int64 (size, size)."""
    shape = scene.labels["colour"].shape
    values = {**scene.labels, "setting": np.full(shape, SETTINGS.index(scene.setting) + 1)}
    return np.ravel_multi_index([values[kind].astype(np.int64) for kind in KINDS], KIND_SIZES)


@dataclass(frozen=True)
class LabelSignatures:
    """The signatures in a series of scenes.

    Attributes:
        pixels: the number of each pixel's signature, int32 (images, size, size).
        table: the labels of each signature in the order of KINDS, uint8 (signatures, 6).
    """

    pixels: np.ndarray
    table: np.ndarray

    @classmethod
    def from_images(cls, images: DioramaImages, folder: Path | None = None) -> "LabelSignatures":
        """Render every scene, or read the signatures that ``folder`` holds for the same images."""

        def drawn() -> np.ndarray:
            rows = track_progress(range(len(images)), description=f"rendering {len(images)} scenes")
            return np.stack([encode_labels(images.scene(index)) for index in rows])

        return cls.kept(folder / f"census-{images.fingerprint}", drawn) if folder else cls.from_codes(drawn())

    @classmethod
    def kept(cls, home: Path, numbers: Callable[[], np.ndarray]) -> "LabelSignatures":
        """Read the signatures in a folder; computed from ``numbers`` (see ``from_codes``) if missing or damaged."""
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
        """Return the signatures of scenes encoded by ``encode_labels``, int64 (images, size, size)."""
        distinct, which = np.unique(numbers, return_inverse=True)
        table = np.stack(np.unravel_index(distinct, KIND_SIZES), axis=1).astype(np.uint8)
        return cls(which.reshape(numbers.shape).astype(np.int32), table)

    @cached_property
    def area(self) -> np.ndarray:
        """Number of pixels of each signature, int64 (signatures,)."""
        return np.bincount(np.asarray(self.pixels).ravel(), minlength=len(self.table))

    @cached_property
    def has_concept(self) -> sparse.csr_matrix:
        """1 where a signature shows a concept, else 0, (signatures, concepts), in the order of ``list_concepts()``."""
        return sparse.csr_matrix(
            np.stack([self.concept_mask(concept) for concept in list_concepts()], axis=1).astype(np.float64)
        )

    def concept_mask(self, concept: Concept) -> np.ndarray:
        """Return which signatures show a concept, bool (signatures,)."""
        mask = np.zeros(len(self.table), dtype=bool)
        for kind, name in concept.members:
            mask |= self.table[:, KINDS.index(kind)] == ALL_KINDS[kind].index(name) + 1
        return mask

    def text_values(self, parsed: ParsedDescription) -> np.ndarray:
        """Return the weighted sum of what a text's formulas denote, float64 (signatures,); 0 and 1 for a plain text."""
        values = np.zeros(len(self.table))
        for weight, formula in parsed.terms:
            values += weight * evaluate_formula(formula, self.concept_mask, len(self.table))
        return values

    def text_mask(self, parsed: ParsedDescription) -> np.ndarray:
        """Return which signatures a text denotes, bool (signatures,): of a weighted sum those where it is positive."""
        return self.text_values(parsed) > 0

    def count_pixels(self, images: np.ndarray, masks: np.ndarray) -> sparse.csr_matrix:
        """Return the number of pixels of each signature inside each unit's masks, (units, signatures).

        Args:
            images: indices into ``pixels``, int (n,).
            masks: bool (n, units, size, size).
        """
        n, units = masks.shape[:2]
        image, unit, pixel = np.nonzero(masks.reshape(n, units, -1))
        signature = np.asarray(self.pixels[images]).reshape(n, -1)[image, pixel]
        ones = np.ones(len(unit), dtype=np.int64)
        return sparse.coo_matrix((ones, (unit, signature)), shape=(units, len(self.table))).tocsr()
