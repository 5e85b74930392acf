"""The truth score: how close a description comes to the best possible one of a unit. It needs Diorama's labels.

A description denotes pixels (``milan.diorama.text_reader``). It is measured over held-out scenes by the correlation of
these pixels with the unit's activation. The truth score is the share of the way from the floor (a random concept) to
the ceiling (the best formula of up to three concepts, sought on other scenes): 0 is chance, 1 as good as can be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from scipy import sparse

from milan.diorama.formulas import Formula, evaluate_formula, format_formula
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.scene_concepts import get_readable_name, list_concepts
from milan.diorama.text_reader import ParsedDescription, parse_description
from milan.dissection.dissection import Dissection
from milan.errors import UnknownName
from milan.scores.activation_sums import (
    ActivationSums,
    LabelledScenes,
    load_activation_sums,
    load_labelled_scenes,
)
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_mean
from milan.scores.formula_search import MAX_CONCEPTS, FormulaSearch, UnitMoments, correlate
from milan.targets.target import Target
from milan.units import Unit

Layer = TypeVar("Layer")
# Units whose best formula correlates less than this have no true description.
MIN_CEILING = 0.2
# Texts of which fewer content words are read than this are not understood and score 0.
MIN_UNDERSTOOD = 0.5
MIN_EXACT_IOU = 0.98
MIN_PART_COVERED = 0.8
MIN_PRECISION = 0.8


@dataclass(frozen=True)
class BestDescription:
    """The best formula of a unit, with its correlation and overlap (IoU, 0 without masks) on the measured scenes."""

    text: str
    formula: Formula
    correlation: float
    overlap: float


@dataclass(frozen=True)
class TruthJudgement:
    """How true a description of a unit is.

    Attributes:
        truth: the truth score, 0..1, with its 95% interval over scenes; NaN for a dead unit.
        correlation: of the unit's activation with the pixels that the text denotes, -1..1.
        overlap: IoU of the unit's masks with these pixels, 0..1.
        ceiling: correlation of the unit's best formula.
        floor: mean correlation of single concepts.
        is_understood: whether at least half of the text's content words were read.
    """

    truth: Measure
    correlation: float
    overlap: float
    ceiling: float
    floor: float
    is_understood: bool


class Truth:
    """What the units of a layer detect.

    Attributes:
        units: those measured.
        signatures: the labels of the measured pixels.
    """

    def __init__(self, units: Sequence[Unit], scenes: LabelledScenes, sums: ActivationSums):
        self.units, self.scenes, self.sums = list(units), scenes, sums
        self._rows = {unit: row for row, unit in enumerate(self.units)}
        self._best: dict[tuple[Unit, int], BestDescription] = {}
        self._known_moments: dict[int, UnitMoments] = {}
        self._chance: dict[int, float] = {}
        measured = np.flatnonzero(scenes.block > 0)
        self._measured, self._sought = measured, np.flatnonzero(scenes.block == 0)
        self._area = scenes.signatures.area.astype(np.float64)
        self.signatures = LabelSignatures(
            np.searchsorted(measured, scenes.columns[scenes.block[scenes.columns[:, 0]] > 0]),
            scenes.signatures.table[measured],
        )
        self._block = scenes.block[measured] - 1

    @classmethod
    def measure(cls, dissection: Dissection, target: Target | None = None, folder: Path | None = None) -> "Truth":
        """Measure every unit of a dissected layer, or read what was measured before.

        Args:
            dissection: on a probe ``diorama:NAME``, with thresholds; or on a generator's own images
                (``latents:diorama:NAME``), whose labels the embedded segmenter predicts.
            target: the network that was dissected; loaded as the dissection says unless given.
            folder: where sums are stored; a folder in the cache unless given.

        Raises:
            MissingEvidence: the probe does not show Diorama, so that nobody knows what its pixels show.
        """
        return cls.measure_layers({"": dissection}, target, folder)[""]

    @classmethod
    def measure_layers(
        cls, dissections: Mapping[Layer, Dissection], target: Target | None = None, folder: Path | None = None
    ) -> "dict[Layer, Truth]":
        """Measure every unit of several layers of one target on one probe, in one pass; see ``measure``."""
        if not dissections:
            return {}
        layers = list(dissections.values())
        scenes = load_labelled_scenes(layers[0], folder=folder)
        sums = load_activation_sums(layers, scenes, target, folder)
        truths = [cls(one.units, scenes, found) for one, found in zip(layers, sums, strict=True)]
        return dict(zip(dissections, truths, strict=True))

    def score(self, unit: Unit, text: str) -> float:
        """Return the truth score of a description, 0..1; NaN if the unit is dead.

        Of a unit that cannot be described, silence scores 1 and anything else 0; of any other, silence scores 0.

        Raises:
            UnknownName: the unit was not measured.
        """
        parsed = parse_description(text)
        if self._moments(unit).deviation == 0:
            return float("nan")
        correlation = self._correlate(unit, self._values(parsed))
        # A true text proves that the unit can be described, also where the search had too few active scenes.
        if not self.is_describable(unit) and not self._is_enough(unit, correlation):
            return float(parsed.is_silent)
        if parsed.understood < MIN_UNDERSTOOD:
            return 0.0
        return self._scale(unit, correlation)

    def judge(self, unit: Unit, text: str, seed: int = 0) -> TruthJudgement:
        """Return the truth score of a description with its interval, and the figures behind it."""
        parsed = parse_description(text)
        values = self._values(parsed)
        score = self.score(unit, text)
        low, high, error = score, score, 0.0
        if self.is_describable(unit) and parsed.understood >= MIN_UNDERSTOOD and values.any():
            draws = np.clip((self._resample(unit, values, seed) - self.floor(unit)) / self._reach(unit, seed), 0, 1)
            low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            error = float(draws.std(ddof=1))
        return TruthJudgement(
            Measure(score, low, high, error, 1),
            self._correlate(unit, values),
            self.overlap(unit, text),
            self.ceiling(unit),
            self.floor(unit),
            parsed.understood >= MIN_UNDERSTOOD,
        )

    def correlation(self, unit: Unit, text: str) -> float:
        """Return the correlation of the unit's activation with the pixels that a text denotes; 0 if it denotes none."""
        return self._correlate(unit, self._values(parse_description(text)))

    def overlap(self, unit: Unit, text: str) -> float:
        """Return the IoU of the unit's masks with the pixels that a text denotes; NaN if the unit has no masks."""
        return self._overlap(unit, self._values(parse_description(text)) > 0)

    def ceiling(self, unit: Unit) -> float:
        """Return the correlation of the best formula of up to three concepts."""
        return self.find_best(unit, MAX_CONCEPTS).correlation

    def floor(self, unit: Unit) -> float:
        """Return the mean correlation of all concepts, what a random one is expected to have; at least 0."""
        return float(self._floors[self._row_of(unit)])

    def is_describable(self, unit: Unit) -> bool:
        """Return whether the unit's best formula correlates by MIN_CEILING, and better than chance."""
        return self._is_enough(unit, self.ceiling(unit))

    def _is_enough(self, unit: Unit, correlation: float) -> bool:
        return correlation >= MIN_CEILING and correlation > self.chance_level(unit)

    def find_best(self, unit: Unit, length: int = MAX_CONCEPTS) -> BestDescription:
        """Return the best formula of up to ``length`` concepts, sought on other scenes than it is measured on."""
        if (unit, length) not in self._best:
            row = self._row_of(unit)
            moments = _compute_moments(self.sums.sums[row], self.sums.squares[row], self._area, self._sought, False)
            formula = self._search.find_best(moments, length).formula
            values = self._evaluate(formula)
            overlap = self._overlap(unit, values > 0)
            self._best[unit, length] = BestDescription(
                format_formula(formula),
                formula,
                self._correlate(unit, values),
                0.0 if np.isnan(overlap) else overlap,
            )
        return self._best[unit, length]

    def chance_level(self, unit: Unit) -> float:
        """Return the best formula's correlation if each scene has another one's labels: the highest of three draws.

        It is above 0 where formulas tell where in an image something usually is: skies are at the top of other scenes,
        too.
        """
        row = self._row_of(unit)
        if row not in self._chance:
            found = [0.0]
            for sums in self.sums.permuted:
                sought = _compute_moments(sums[row], self.sums.squares[row], self._area, self._sought, False)
                measured = _compute_moments(sums[row], self.sums.squares[row], self._area, self._measured, True)
                if sought.deviation:
                    found.append(
                        self._correlate_moments(measured, self._evaluate(self._search.find_best(sought).formula))
                    )
            self._chance[row] = max(found)
        return self._chance[row]

    def is_exact(self, text: str, planted: str) -> bool:
        """Return whether a text denotes the same pixels as the planted text (IoU at least .98) on all scenes."""
        said, meant = self.find_pixels(text), self.find_pixels(planted)
        either = self.signatures.area[said | meant].sum()
        return bool(either and self.signatures.area[said & meant].sum() >= MIN_EXACT_IOU * either)

    def names_all_parts(self, text: str, planted: str) -> bool:
        """Return whether a text denotes most pixels of each part that "or" joins in the planted text, and little else.

        At least 80% of each part's pixels are covered, and at least 80% of the covered pixels belong to a part.
        """
        said, meant = self.find_pixels(text), self.find_pixels(planted)
        area = self.signatures.area
        parts = [self.find_pixels(part) for part in planted.split(" or ")]
        covered = all(area[said & part].sum() >= MIN_PART_COVERED * area[part].sum() for part in parts)
        return bool(said.any() and covered and area[said & meant].sum() >= MIN_PRECISION * area[said].sum())

    def find_pixels(self, text: str) -> np.ndarray:
        """Return which signatures of the measured scenes a text denotes, bool (signatures,)."""
        return self._values(parse_description(text)) > 0

    def mean(self, texts: Mapping[Unit, str]) -> Measure:
        """Return the mean score of descriptions of some units with its interval; dead units are left out."""
        return estimate_mean([self.score(unit, text) for unit, text in texts.items()])

    def _row_of(self, unit: Unit) -> int:
        if unit not in self._rows:
            raise UnknownName("unit", str(unit), map(str, self.units), "it was not dissected")
        return self._rows[unit]

    def _scale(self, unit: Unit, correlation: float) -> float:
        """Return a correlation as the share of the way from the floor to the ceiling."""
        floor = self.floor(unit)
        reach = max(self.ceiling(unit), correlation) - floor
        return max(0.0, (correlation - floor) / reach) if reach > 0 else 0.0

    def _values(self, parsed: ParsedDescription) -> Float[np.ndarray, " signatures"]:
        values = np.zeros(len(self._measured))
        for weight, formula in parsed.terms:
            values += weight * self._evaluate(formula)
        return values

    def _evaluate(self, formula: Formula) -> Float[np.ndarray, " signatures"]:
        return evaluate_formula(formula, self._masks.__getitem__, len(self._measured)).astype(np.float64)

    @cached_property
    def _masks(self) -> dict:
        dense = self._has_concept.toarray().astype(bool)
        return {concept: np.ascontiguousarray(dense[:, place]) for place, concept in enumerate(list_concepts())}

    @cached_property
    def _has_concept(self) -> sparse.csr_matrix:
        return self.signatures.has_concept

    @cached_property
    def _search(self) -> FormulaSearch:
        sought = LabelSignatures(self.scenes.columns[:0], self.scenes.signatures.table[self._sought])
        return FormulaSearch(sought.has_concept, self._area[self._sought])

    @cached_property
    def _floors(self) -> Float[np.ndarray, " units"]:
        area = self._has_concept.T @ self.signatures.area.astype(np.float64)
        found = []
        for unit in self.units:
            moments = self._moments(unit)
            values = correlate(self._has_concept.T @ moments.sums, area, float(self.signatures.area.sum()), moments)
            found.append(max(0.0, values.mean()))
        return np.array(found)

    def _moments(self, unit: Unit) -> UnitMoments:
        row = self._row_of(unit)
        if row not in self._known_moments:
            sums, squares = self.sums.sums[row], self.sums.squares[row]
            self._known_moments[row] = _compute_moments(sums, squares, self._area, self._measured, True)
        return self._known_moments[row]

    def _correlate(self, unit: Unit, values: Float[np.ndarray, " signatures"]) -> float:
        return self._correlate_moments(self._moments(unit), values)

    def _correlate_moments(self, moments: UnitMoments, values: Float[np.ndarray, " signatures"]) -> float:
        area, pixels = self.signatures.area, self.signatures.area.sum()
        mean = values @ area / pixels
        deviation = np.sqrt(max(0.0, np.square(values) @ area / pixels - mean**2))
        if deviation < 1e-9 or moments.deviation == 0:
            return 0.0
        return float((values @ moments.sums / pixels - mean * moments.mean) / (deviation * moments.deviation))

    def _resample(self, unit: Unit, values: Float[np.ndarray, " signatures"], seed: int) -> Float[np.ndarray, " draws"]:
        """Return the correlation in bootstrap resamples of blocks of scenes."""
        row, area = self._row_of(unit), self.signatures.area.astype(np.float64)
        sums, blocks = self.sums.sums[row, self._measured].astype(np.float64), int(self._block.max()) + 1
        parts = [area, values * area, values**2 * area, sums, values * sums]
        by_block = np.stack([np.bincount(self._block, part, blocks) for part in parts])
        by_block = np.vstack([by_block, self.sums.squares[row, 1:]])
        weights = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
        pixels, shown, shown_squares, total, both, squares = by_block @ weights.T
        spread = (shown_squares / pixels - (shown / pixels) ** 2) * (squares / pixels - (total / pixels) ** 2)
        joint = both / pixels - shown / pixels * total / pixels
        return np.divide(joint, np.sqrt(np.clip(spread, 0, None)), out=np.zeros_like(joint), where=spread > 1e-18)

    def _reach(self, unit: Unit, seed: int) -> Float[np.ndarray, " draws"]:
        """Return the distance from floor to ceiling in the same resamples."""
        ceiling = self._resample(unit, self._evaluate(self.find_best(unit).formula), seed)
        return np.maximum(ceiling - self.floor(unit), 1e-9)

    def _overlap(self, unit: Unit, where: np.ndarray) -> float:
        masked = self.sums.masked[self._row_of(unit)].toarray().ravel()[self._measured].astype(np.float64)
        both = masked[where].sum()
        either = masked.sum() + self.signatures.area[where].sum() - both
        return float(both / either) if masked.any() else float("nan")


def _compute_moments(
    sums: np.ndarray, squares: np.ndarray, area: np.ndarray, columns: np.ndarray, is_measured: bool
) -> UnitMoments:
    own = sums[columns].astype(np.float64)
    pixels = area[columns].sum()
    mean = own.sum() / pixels
    square = (squares[1:].sum() if is_measured else squares[0]) / pixels
    variance = square - mean**2
    # Rounding leaves a little variance in a constant activation.
    deviation = float(np.sqrt(variance)) if variance > 1e-7 * square else 0.0
    return UnitMoments(own, float(mean), deviation)


def find_best_constant(units: Sequence[tuple[Truth, Unit]]) -> tuple[str, float]:
    """Return the concept with the best mean truth score as the description of all these units, and that score.

    Args:
        units: each unit with the truth of its layer; dead units do not count.
    """
    names = [get_readable_name(concept) for concept in list_concepts()]
    means = [np.nanmean([truth.score(unit, name) for truth, unit in units]) for name in names]
    best = int(np.argmax(means))
    return names[best], float(means[best])
