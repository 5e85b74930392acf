"""How well explanations predict pairs that were not shown: the correlation scores and Table 2 of *Tell me what you see*.

Of several explanations of a unit the best is chosen on other pairs than it is scored on, which the paper's "best of ten" is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milan.pairs import CHOOSING, JUDGING, Pairs, parts
from milan.pretrained.asking import NoAnswer
from milan.scores.intervals import Measure, mean
from milan.simulated import Simulated, Simulation
from milan.units import Unit

SHARE = 0.5  # of the pairs that an explanation may have been made from, as the paper halves them


@dataclass(frozen=True)
class Assessment:
    """How well one explanation predicts a unit's integers.

    text: the explanation; correlation, half_width: their mean over rounds and half of its 90% interval, in units of correlation (the paper
    gives points of 100); accuracy: share of integers that are right; squared, absolute: mean errors of the integers; rounds: how many.
    """

    unit: Unit
    text: str
    correlation: float
    half_width: float
    accuracy: float
    squared: float
    absolute: float
    rounds: int

    @classmethod
    def of(cls, unit: Unit, text: str, found: Simulated) -> "Assessment":
        means = {name: found.mean(name) for name in ("accuracy", "squared", "absolute")}
        return cls(unit, text, found.correlation, found.half_width, rounds=len(found.rounds), **means)


def assess(
    simulation: Simulation, unit: Unit, texts: Sequence[str], pairs: Pairs, *, share: float = SHARE, seed: int = 0
) -> Assessment | NoAnswer:
    """Scores the best of some explanations on pairs that it was neither made from nor chosen on.

    Args:
        simulation: who predicts, and how.
        texts: explanations of the unit, made from pairs that may be shown (``milan.pairs.parts`` of the same share and seed).
        pairs: all of the unit's.
        share: of the pairs that may have been shown.
        seed: of the division.

    Raises:
        BadInput: too few pairs are left, or all have the same integer.
    """
    part = parts(len(pairs.values), share, seed)
    best = texts[0]
    if len(texts) > 1:
        places = np.flatnonzero(part == CHOOSING).tolist()
        tried = [simulation.of(text, unit, pairs, places) for text in texts]
        failed = next((each for each in tried if isinstance(each, NoAnswer)), None)
        if failed is not None:
            return failed
        scores = [each.correlation for each in tried if isinstance(each, Simulated)]
        best = texts[int(np.argmax(scores))]
    found = simulation.of(best, unit, pairs, np.flatnonzero(part == JUDGING).tolist())
    return found if isinstance(found, NoAnswer) else Assessment.of(unit, best, found)


def figures(found: Sequence[Assessment], seed: int = 0) -> dict[str, Measure]:
    """The four figures of Table 2, as means over units: correlation, accuracy, mean squared and mean absolute error.

    >>> unit = Unit("a", 0)
    >>> made = figures([Assessment(unit, "x", 0.2, 0.01, 0.5, 4.0, 1.0, 3), Assessment(unit, "y", 0.4, 0.01, 0.25, 2.0, 2.0, 3)])
    >>> [round(made[name].value, 3) for name in ("correlation", "accuracy", "squared", "absolute")]
    [0.3, 0.375, 3.0, 1.5]
    """
    names = ("correlation", "accuracy", "squared", "absolute")
    return {name: mean([getattr(each, name) for each in found], seed) for name in names}
