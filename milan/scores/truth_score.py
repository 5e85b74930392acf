"""The truth score: how much of the best that could be said of a unit a description says. Needs a probe drawn by
Diorama, and no judge.

A unit's masks over the whole probe overlap with what a text says by some intersection over union. Divided by the best
such overlap that any description naming as many concepts could have had, that is the truth score: 1 is perfect, 0
unrelated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.scene_concepts import list_concepts, parse_concepts
from milan.dissection.concept_overlap import count_overlap
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence, UnknownName
from milan.probes import load_probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama
from milan.targets.target import Target
from milan.units import Unit

BEAM_WIDTH = 5  # formulas kept while longer ones are sought
MAX_CONCEPTS = 5  # concepts in the longest description that is sought


@dataclass(frozen=True)
class BestDescription:
    """The best that can be said of a unit with so many concepts."""

    text: str
    overlap: float  # intersection over union


@dataclass(frozen=True)
class MeanTruthScore:
    """The mean over units, its standard error, and how many units it is of."""

    mean: float
    error: float
    units: int


@dataclass(frozen=True)
class _Formula:
    text: str
    where: np.ndarray  # bool (signatures,)
    overlap: float


class Truth:
    """What a layer's units truly detect, measured over a probe of scenes.

    units: those measured; counts: (units, signatures), how many pixels of each of the census' signatures lie inside
        each unit's masks.
    """

    def __init__(self, units: Sequence[Unit], counts: sparse.csr_matrix, signatures: LabelSignatures):
        self.units = list(units)
        self.counts = counts.tocsr()
        self.signatures = signatures
        self._rows = {unit: row for row, unit in enumerate(self.units)}
        self._best: dict[Unit, list[list[_Formula]]] = {}

    @classmethod
    def measure(cls, dissection: Dissection, target: Target | None = None, folder: Path | None = None) -> "Truth":
        """Measures every unit of a dissected layer, or reads what was measured before.

        Args:
            dissection: of a probe ``diorama:NAME``, with thresholds; or of a generator's own pictures
                (``latents:diorama:NAME``), of which the embedded segmenter judges what they show.
            target: the network that was dissected; loaded as the dissection says unless given.
            folder: where counts are kept; a folder in the cache unless given.

        Raises:
            MissingEvidence: the probe is not drawn by Diorama, so nobody knows what its pixels show.
        """
        if not shows_diorama(dissection.probe):
            raise MissingEvidence(
                f"the truth of {dissection.layer} is not known on probe {dissection.probe!r}; dissect it on"
                " diorama:objects"
            )
        drawn = dissection.probe.startswith("diorama:")
        limit = len(dissection.activations())
        probe = (
            load_probe(dissection.probe, size=dissection.image_size, limit=limit) if drawn else dissection.open_probe()
        )
        labels = DioramaLabels(probe, folder)
        found = count_overlap(dissection, labels, target=target, folder=folder)
        return cls(dissection.units, found.counts @ _match_rows(found.table, labels.table), labels.signatures)

    def overlap(self, unit: Unit, text: str) -> float:
        """Intersection over union of the unit's masks with what the text says; 0 if it names no concept, NaN if the
        unit has no masks.

        Raises UnknownName for a unit that was not measured.
        """
        return self._overlap(self._row_of(unit), self.signatures.text_mask(parse_concepts(text)))

    def score(self, unit: Unit, text: str) -> float:
        """The truth score of a description, 0..1; NaN if the unit has no masks. Raises UnknownName for a unit that was
        not measured.
        """
        reading = parse_concepts(text)
        overlap = self._overlap(self._row_of(unit), self.signatures.text_mask(reading))
        if reading.concept_count == 0 or overlap == 0:
            return overlap
        return overlap / max(overlap, self.find_best(unit, reading.concept_count).overlap)

    def find_best(self, unit: Unit, length: int = 2) -> BestDescription:
        """The best description that names up to ``length`` concepts, joined by and (&) and or (|); sought by a beam
        beyond two.
        """
        row = self._row_of(unit)
        levels = self._best.setdefault(unit, [self._singles(row)])
        while len(levels) < min(length, MAX_CONCEPTS):
            levels.append(self._doubles(row) if len(levels) == 1 else self._extend(row, levels[-1]))
        found = max((level[0] for level in levels[:length]), key=lambda formula: formula.overlap)
        return BestDescription(found.text, found.overlap)

    def mean(self, texts: Mapping[Unit, str]) -> MeanTruthScore:
        """The mean score of descriptions of some units, with its standard error; units without masks are left out."""
        scores = np.array([self.score(unit, text) for unit, text in texts.items()])
        scores = scores[~np.isnan(scores)]
        error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else float("nan")
        return MeanTruthScore(float(scores.mean()) if len(scores) else float("nan"), error, len(scores))

    def _row_of(self, unit: Unit) -> int:
        if unit not in self._rows:
            raise UnknownName("unit", str(unit), map(str, self.units), "it was not dissected")
        return self._rows[unit]

    def _overlap(self, row: int, where: np.ndarray) -> float:
        inside = self.counts[row]
        total = inside.data.sum()
        both = inside.data[where[inside.indices]].sum()
        return float(both / (total + self.signatures.area[where].sum() - both)) if total else float("nan")

    @cached_property
    def _area(self) -> np.ndarray:
        """How many pixels show both of two concepts, (concepts, concepts)."""
        return sum_pairs(self.signatures.has_concept, self.signatures.area)

    def _singles(self, row: int) -> list[_Formula]:
        inside = self._inside(row)
        overlaps = _compute_iou(self.signatures.has_concept.T @ inside, np.diag(self._area), float(inside.sum()))
        return [
            _Formula(list_concepts()[i].name, self.signatures.concept_mask(list_concepts()[i]), float(overlaps[i]))
            for i in _find_top(overlaps)
        ]

    def _doubles(self, row: int) -> list[_Formula]:
        """The best pairs: every one is tried."""
        inside = self._inside(row)
        rows = np.flatnonzero(inside)
        both = sum_pairs(self.signatures.has_concept[rows], inside[rows])
        either = np.diag(both)[:, None] + np.diag(both) - both
        area_either = np.diag(self._area)[:, None] + np.diag(self._area) - self._area
        found: list[_Formula] = []
        for join, common, area in (("&", both, self._area), ("|", either, area_either)):
            overlaps = np.triu(_compute_iou(common, area, float(inside.sum())), 1)
            for place in _find_top(overlaps.ravel()):
                one, other = divmod(place, len(overlaps))
                found.append(self._joined(self._single(one), join, other, float(overlaps[one, other])))
        return sorted(found, key=lambda formula: -formula.overlap)[:BEAM_WIDTH]

    def _extend(self, row: int, starts: list[_Formula]) -> list[_Formula]:
        """The best that one more concept makes of the best few."""
        inside, shows, area = self._inside(row), self.signatures.has_concept, self.signatures.area
        total = float(inside.sum())
        found: list[_Formula] = []
        for start in starts:
            both, wide = shows.T @ (inside * start.where), shows.T @ (area * start.where)
            either = inside[start.where].sum() + shows.T @ inside - both
            either_wide = area[start.where].sum() + np.diag(self._area) - wide
            for join, overlaps in (
                ("&", _compute_iou(both, wide, total)),
                ("|", _compute_iou(either, either_wide, total)),
            ):
                found += [self._joined(start, join, place, float(overlaps[place])) for place in _find_top(overlaps)]
        return sorted(found, key=lambda formula: -formula.overlap)[:BEAM_WIDTH]

    def _inside(self, row: int) -> np.ndarray:
        return self.counts[row].toarray().ravel().astype(np.float64)

    def _single(self, concept: int) -> _Formula:
        return _Formula(list_concepts()[concept].name, self.signatures.concept_mask(list_concepts()[concept]), 0.0)

    def _joined(self, start: _Formula, join: str, concept: int, overlap: float) -> _Formula:
        other = self._single(concept)
        where = start.where & other.where if join == "&" else start.where | other.where
        return _Formula(f"{start.text} {join} {other.text}", where, overlap)


def sum_pairs(has_concept: sparse.csr_matrix, weights: np.ndarray) -> np.ndarray:
    """Sums the weights of the signatures that show both of two concepts, (concepts, concepts)."""
    return np.asarray((has_concept.T @ sparse.diags(weights.astype(np.float64)) @ has_concept).todense())


def _compute_iou(both: np.ndarray, area: np.ndarray, inside: float) -> np.ndarray:
    return both / np.maximum(1, inside + area - both)


def _find_top(values: np.ndarray) -> list[int]:
    """Where the largest are, ties by place."""
    return np.argsort(-values, kind="stable")[:BEAM_WIDTH].tolist()


def _match_rows(rows: np.ndarray, known: np.ndarray) -> sparse.csr_matrix:
    """Which of the known rows each of the found ones is, (found, known), 0 or 1."""
    places = {row.tobytes(): place for place, row in enumerate(known.astype(np.int32))}
    columns = [places[row.tobytes()] for row in rows.astype(np.int32)]
    ones = np.ones(len(columns), dtype=np.int64)
    return sparse.csr_matrix((ones, (np.arange(len(columns)), columns)), shape=(len(columns), len(known)))
