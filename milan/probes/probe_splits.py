"""Disjoint splits of a probe: SPEC@learn for making explanations, SPEC@judge for evaluating them."""

from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from milan.errors import BadInput
from milan.probes.image_sources import ImageSource

SPLIT_NAMES = ("learn", "judge")
LEARN_SHARE = 0.8  # fraction of the images in the first split
# The seed is fixed, so that no image is ever used for both.
SPLIT_SEED = 0


def parse_split(spec: str) -> tuple[str, str]:
    """Return a spec without its split, and the split, empty if it names none.

    >>> parse_split("val.parquet@judge"), parse_split("me@home/photos")
    (('val.parquet', 'judge'), ('me@home/photos', ''))
    """
    base, _, part = spec.rpartition("@")
    return (base, part) if base and part in SPLIT_NAMES else (spec, "")


class SubsetSource(ImageSource):
    """Some images of a source, by index."""

    def __init__(self, source: ImageSource, rows: Int[np.ndarray, " some"]):
        self.source, self.rows = source, rows
        self.is_presized, self.bands, self.of_bytes = source.is_presized, source.bands, source.of_bytes
        self.labels = None if source.labels is None else [source.labels[row] for row in self.rows]
        self.classes, self.wnids = source.classes, source.wnids

    def __len__(self) -> int:
        return len(self.rows)

    def load_image(self, index: int) -> Image.Image | np.ndarray:
        """Return an image of the whole source."""
        return self.source.load_image(int(self.rows[index]))

    def format_location(self, index: int) -> str:
        """Return the image's location in the whole source."""
        return self.source.format_location(int(self.rows[index]))

    def content_facts(self) -> dict[str, Any]:
        """Return the indices and the facts of the whole source."""
        return {"rows": self.rows.tolist(), "of": self.source.content_facts()}

    def load_segmentation(self, index: int) -> Image.Image:
        """Return a label map of the whole source."""
        return self.source.load_segmentation(int(self.rows[index]))


class SplitSource(SubsetSource):
    """A random four fifths of the images of a source, or the other fifth, in their order."""

    def __init__(self, source: ImageSource, split: str):
        order = np.random.default_rng(SPLIT_SEED).permutation(len(source))
        middle = round(LEARN_SHARE * len(source))
        super().__init__(source, np.sort(order[:middle] if split == SPLIT_NAMES[0] else order[middle:]))
        self.split = split
        if not len(self.rows):
            raise BadInput(f"{len(source)} images leave none for the split {split!r}; give more")

    def content_facts(self) -> dict[str, Any]:
        """Return the part, how images are assigned to it, and the facts of the whole source."""
        return {"part": self.split, "learn": LEARN_SHARE, "lot": SPLIT_SEED, "of": self.source.content_facts()}
