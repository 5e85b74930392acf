"""The images that explanations may be made from, and others to judge them by: SPEC@learn and SPEC@judge, with no image in both."""

from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from milan.errors import BadInput
from milan.probes.sources import Source

PARTS = ("learn", "judge")
LEARN = 0.8  # share of the images in the first part
LOT = 0  # seed of the draw, always the same: what was once learnt from is never judged by


def part_of(spec: str) -> tuple[str, str]:
    """A spec without its part, and the part, empty where it names none.

    >>> part_of("val.parquet@judge"), part_of("me@home/photos")
    (('val.parquet', 'judge'), ('me@home/photos', ''))
    """
    base, _, part = spec.rpartition("@")
    return (base, part) if base and part in PARTS else (spec, "")


class Some(Source):
    """Some pictures of a source, by their numbers."""

    def __init__(self, source: Source, rows: Int[np.ndarray, " some"]):
        self.source, self.rows = source, rows
        self.drawn, self.bands, self.of_bytes = source.drawn, source.bands, source.of_bytes
        self.labels = None if source.labels is None else [source.labels[row] for row in self.rows]
        self.classes, self.wnids = source.classes, source.wnids

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image | np.ndarray:
        return self.source.picture(int(self.rows[index]))

    def where(self, index: int) -> str:
        return self.source.where(int(self.rows[index]))

    def key(self) -> dict[str, Any]:
        return {"rows": self.rows.tolist(), "of": self.source.key()}

    def segmentation(self, index: int) -> Image.Image:
        return self.source.segmentation(int(self.rows[index]))


class Part(Some):
    """Four fifths of the pictures of a source, drawn by lot, or the other fifth; in their order."""

    def __init__(self, source: Source, part: str):
        order = np.random.default_rng(LOT).permutation(len(source))
        middle = round(LEARN * len(source))
        super().__init__(source, np.sort(order[:middle] if part == PARTS[0] else order[middle:]))
        self.part = part
        if not len(self.rows):
            raise BadInput(f"of {len(source)} images none is left to {part}; give more")

    def key(self) -> dict[str, Any]:
        return {"part": self.part, "learn": LEARN, "lot": LOT, "of": self.source.key()}
