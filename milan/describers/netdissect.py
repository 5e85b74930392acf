"""Network Dissection (Bau et al. 2017): the concept whose pixels overlap most with the unit's masks."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from milan.describers._shared.base import select_active
from milan.describers._shared.pixel_label_describer import PixelLabelDescriber
from milan.dissection.concept_overlap import ConceptOverlap, count_overlap
from milan.dissection.dissection import Dissection
from milan.dissection.pass_options import check_quantile
from milan.errors import BadInput
from milan.probes.pixel_labels import IGNORED_NAMES
from milan.units import Candidate, Description, Unit

KEPT_CANDIDATES = 10  # candidates kept with a description


class NetDissect(PixelLabelDescriber):
    """Names the concept with the largest intersection over union (IoU) with the unit's masks over the whole probe.

    A unit whose IoU exceeds ``cut`` is a detector of its concept (Bau et al. 2017, section 2.3). Other units are named
    too; the part ``detector`` of their candidates is 0. ``score`` is the IoU; the next best concepts are candidates.

    Args:
        labels: ``probe`` (the probe's own pixel labels), ``segmenter`` (the stand-in that comes with the package), or
            ``segmenter:SPEC``, as ``milan.pretrained.segmenter.load_segmenter`` takes it.
        classes: names of the class numbers in the probe's label maps (a file, or names separated by commas);
            ``classes.txt`` beside the data if empty.
        ignored: names, separated by commas, that are no concepts.
        only: concepts or levels of labels (such as colour, object), separated by commas, that alone may be named; empty
            for all.
        without: concepts or levels that may not be named.
        least_images: minimum number of images that must show a concept.
        quantile: activation quantile used as the mask threshold, 0.995 in the paper; 0 for the dissection's own masks.
        over: ``category``: the IoU of a concept counts only images with some label of its level, as in the paper, since
            not all images have every kind of label; ``probe``: all images count.
        cut: IoU above which a unit is a detector.
        device: device of a segmenter.
    """

    name: ClassVar[str] = "netdissect"
    version: ClassVar[int] = 1
    words = "names of pixel labels"

    def __init__(
        self,
        labels: str = "probe",
        classes: str = "",
        ignored: str = IGNORED_NAMES,
        only: str = "",
        without: str = "",
        least_images: int = 10,
        quantile: float = 0.995,
        over: Literal["probe", "category"] = "category",
        cut: float = 0.04,
        device: str = "cpu",
    ):
        if over not in ("probe", "category"):
            raise BadInput(f"over is {over!r}; choose probe or category")
        check_quantile(quantile)
        self.labels, self.classes, self.ignored = labels, classes, ignored
        self.only, self.without, self.least_images = only, without, least_images
        self.quantile, self.over, self.cut, self.device = quantile, over, cut, device

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the concept with the largest IoU for each active unit."""
        active = select_active(dissection, units)
        if not active:
            return
        found = count_overlap(dissection, self._load_labels(dissection), self.quantile or None)
        allowed = np.flatnonzero(found.select_concepts(self.only, self.without, self.least_images))
        table = found.iou(self.over)
        for unit in active:
            yield self._make_description(unit, found, allowed, table[found.row_of(unit)])

    def _make_description(
        self, unit: Unit, overlap: ConceptOverlap, allowed: np.ndarray, overlaps: Float[np.ndarray, " concepts"]
    ) -> Description:
        order = allowed[np.argsort(-overlaps[allowed], kind="stable")][:KEPT_CANDIDATES]  # ties by the concepts' order
        candidates = tuple(self._make_candidate(overlap.concepts[place], float(overlaps[place])) for place in order)
        return Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)

    def _make_candidate(self, text: str, score: float) -> Candidate:
        return Candidate(text, score, (("iou", score), ("detector", float(score > self.cut))))
