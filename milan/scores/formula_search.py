"""Searches the formula of up to three concepts that correlates best with a unit's activation over pixels.

All single concepts and all pairs are evaluated; the best few are extended by a third concept. Joins are "and", "or" and
"and not"; a formula that correlates negatively stands for its negation.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy import sparse

from milan.diorama.formulas import AllOf, AnyOf, Formula, Not, evaluate_formula, join_formulas
from milan.diorama.scene_concepts import list_concepts

BEAM_WIDTH = 10  # formulas of two concepts that are extended by a third one
# A longer formula replaces a shorter one only if it correlates better by more than this.
MIN_GAIN = 0.01
MAX_CONCEPTS = 3


@dataclass(frozen=True)
class ScoredFormula:
    """A formula and its correlation with a unit's activation."""

    formula: Formula
    correlation: float


@dataclass(frozen=True)
class UnitMoments:
    """A unit's activation over pixels.

    Attributes:
        sums: of activation by signature, float64 (signatures,).
        mean: over all pixels.
        deviation: standard deviation over all pixels; 0 for a dead unit.
    """

    sums: Float[np.ndarray, " signatures"]
    mean: float
    deviation: float


@dataclass(frozen=True, eq=False)
class FormulaSearch:
    """The signatures of the scenes on which formulas are sought.

    Attributes:
        has_concept: 1 where a signature shows a concept, else 0.
        area: number of pixels of each signature.
    """

    has_concept: sparse.csr_matrix
    area: Float[np.ndarray, " signatures"]

    def find_best(self, unit: UnitMoments, length: int = MAX_CONCEPTS) -> ScoredFormula:
        """Return the best formula of up to ``length`` concepts; a shorter one if it is as good within MIN_GAIN."""
        levels = self._iter_levels(unit)[:length]
        best = max(level[0].correlation for level in levels)
        return next(level[0] for level in levels if level[0].correlation >= best - MIN_GAIN)

    def _iter_levels(self, unit: UnitMoments) -> list[list[ScoredFormula]]:
        """Return the best formulas of one, two and three concepts, best first."""
        alone = self._single_shapes @ unit.sums
        pairs = self._pair_shapes @ unit.sums
        singles = self._rank(unit, [(alone, self._single_area, lambda place: list_concepts()[place])])
        first, second = self._pairs.T
        doubles = self._rank(
            unit,
            [
                (pairs, self._pair_area, lambda place: AllOf(self._pair(place))),
                (
                    alone[first] + alone[second] - pairs,
                    self._single_area[first] + self._single_area[second] - self._pair_area,
                    lambda place: AnyOf(self._pair(place)),
                ),
                (
                    alone[first] - pairs,
                    self._single_area[first] - self._pair_area,
                    lambda place: _without(*self._pair(place)),
                ),
                (
                    alone[second] - pairs,
                    self._single_area[second] - self._pair_area,
                    lambda place: _without(*self._pair(place)[::-1]),
                ),
            ],
        )
        triples = [found for start in doubles for found in self._extend(unit, start.formula, alone)]
        return [singles, doubles, sorted(triples, key=lambda found: -found.correlation)]

    def _extend(self, unit: UnitMoments, start: Formula, alone: np.ndarray) -> list[ScoredFormula]:
        """Return the best formulas of three concepts that extend one of two."""
        where = self._find_mask(start)
        mine, area = unit.sums[where].sum(), self.area[where].sum()
        both = self._single_shapes @ (unit.sums * where)
        both_area = self._single_shapes @ (self.area * where)
        concepts = list_concepts()
        options = [
            (both, both_area, lambda place: join_formulas(AllOf, start, concepts[place])),
            (
                mine + alone - both,
                area + self._single_area - both_area,
                lambda place: join_formulas(AnyOf, start, concepts[place]),
            ),
            (mine - both, area - both_area, lambda place: _without(start, concepts[place])),
            (alone - both, self._single_area - both_area, lambda place: _without(concepts[place], start)),
        ]
        return self._rank(unit, options)[:1]

    def _rank(self, unit: UnitMoments, options: list) -> list[ScoredFormula]:
        """Score formulas given as sums of activation, areas and a function that returns a formula by its place."""
        found: list[ScoredFormula] = []
        for sums, area, make in options:
            values = correlate(sums, area, self.area.sum(), unit)
            for place in np.argsort(-np.abs(values), kind="stable")[:BEAM_WIDTH].tolist():
                formula = make(place) if values[place] >= 0 else Not(make(place))
                found.append(ScoredFormula(formula, float(abs(values[place]))))
        return sorted(found, key=lambda each: -each.correlation)[:BEAM_WIDTH]

    def _find_mask(self, formula: Formula) -> np.ndarray:
        return evaluate_formula(formula, lambda concept: self._masks[concept], len(self.area))

    @cached_property
    def _masks(self) -> dict:
        dense = self.has_concept.toarray().astype(bool)
        return {concept: dense[:, place] for place, concept in enumerate(list_concepts())}

    @cached_property
    def _pairs(self) -> np.ndarray:
        return np.array(list(combinations(range(self.has_concept.shape[1]), 2)))

    def _pair(self, place: int) -> tuple:
        return tuple(list_concepts()[concept] for concept in self._pairs[place])

    @cached_property
    def _single_shapes(self) -> sparse.csr_matrix:
        return self.has_concept.T.tocsr().astype(np.float64)

    @cached_property
    def _single_area(self) -> np.ndarray:
        return self._single_shapes @ self.area

    @cached_property
    def _pair_shapes(self) -> sparse.csr_matrix:
        """1 where a signature shows both concepts of a pair, (pairs, signatures)."""
        count = self.has_concept.shape[1]
        first, second = np.triu_indices(count, 1)
        number = np.zeros((count, count), dtype=np.int64)
        number[first, second] = np.arange(len(first))
        columns = self.has_concept.tocsr()
        columns.sort_indices()
        rows = np.split(columns.indices, columns.indptr[1:-1])
        found = [number[row[:, None], row[None]][np.triu_indices(len(row), 1)] for row in rows]
        places = np.repeat(np.arange(len(rows)), [len(each) for each in found])
        ones = np.ones(len(places))
        return sparse.coo_matrix((ones, (np.concatenate(found), places)), shape=(len(first), len(rows))).tocsr()

    @cached_property
    def _pair_area(self) -> np.ndarray:
        return self._pair_shapes @ self.area


def correlate(sums: np.ndarray, area: np.ndarray, pixels: float, unit: UnitMoments) -> np.ndarray:
    """Return the correlation of a unit's activation with masks over all pixels; 0 where either does not vary.

    Args:
        sums: of activation within each mask.
        area: number of pixels in each mask.
        pixels: number of all pixels.
    """
    share = area / pixels
    scale = unit.deviation * np.sqrt(np.clip(share * (1 - share), 0, None))
    return np.divide(sums / pixels - share * unit.mean, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def _without(formula: Formula, excluded: Formula) -> Formula:
    return join_formulas(AllOf, formula, Not(excluded))
