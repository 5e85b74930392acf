"""How well explanations predict held-out pairs: the correlation scores and Table 2 of *Tell me what you see*.

Of several explanations of a unit the best is chosen on other pairs than it is scored on, which the paper's "best of
ten" is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milan.pretrained.llm_client import NoAnswer
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.scores.llm_simulation import LlmSimulation, LlmSimulationResult
from milan.scores.prediction_pairs import CHOOSING, JUDGING, PredictionPairs, divide_pairs
from milan.units import Unit

SHARE = 0.5  # of the pairs that an explanation may have been made from, as the paper halves them


@dataclass(frozen=True)
class Assessment:
    """How well one explanation predicts a unit's integers.

    text: the explanation; correlation, half_width: their mean over rounds and half of its 90% interval, in units of
    correlation (the paper gives points of 100); accuracy: share of integers that are right; squared, absolute: mean
    errors of the integers; rounds: how many.
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
    def from_simulation(cls, unit: Unit, text: str, found: LlmSimulationResult) -> "Assessment":
        """Return the assessment of a unit's explanation from the rounds of its simulation."""
        means = {name: found.mean(name) for name in ("accuracy", "squared", "absolute")}
        return cls(unit, text, found.correlation, found.half_width, rounds=len(found.rounds), **means)


def assess(
    simulation: LlmSimulation,
    unit: Unit,
    texts: Sequence[str],
    pairs: PredictionPairs,
    *,
    share: float = SHARE,
    seed: int = 0,
) -> Assessment | NoAnswer:
    """Score the best of several explanations on pairs that it was neither made from nor chosen on.

    Args:
        simulation: who predicts, and how.
        texts: explanations of the unit, made from pairs that may be shown
            (``milan.scores.prediction_pairs.divide_pairs`` of the same share and seed).
        pairs: all of the unit's.
        share: of the pairs that may have been shown.
        seed: of the division.

    Raises:
        BadInput: too few pairs are left, or all have the same integer.
    """
    part = divide_pairs(len(pairs.values), share, seed)
    best = texts[0]
    if len(texts) > 1:
        places = np.flatnonzero(part == CHOOSING).tolist()
        tried = [simulation.run(text, unit, pairs, places) for text in texts]
        failed = next((each for each in tried if isinstance(each, NoAnswer)), None)
        if failed is not None:
            return failed
        scores = [each.correlation for each in tried if isinstance(each, LlmSimulationResult)]
        best = texts[int(np.argmax(scores))]
    found = simulation.run(best, unit, pairs, np.flatnonzero(part == JUDGING).tolist())
    return found if isinstance(found, NoAnswer) else Assessment.from_simulation(unit, best, found)


def summarize_assessments(assessments: Sequence[Assessment], seed: int = 0) -> dict[str, Measure]:
    """Return the four figures of Table 2 as means over units: correlation, accuracy, mean squared and mean absolute
    error.

    >>> unit = Unit("a", 0)
    >>> first = Assessment(unit, "x", 0.2, 0.01, 0.5, 4.0, 1.0, 3)
    >>> made = summarize_assessments([first, Assessment(unit, "y", 0.4, 0.01, 0.25, 2.0, 2.0, 3)])
    >>> [round(made[name].value, 3) for name in ("correlation", "accuracy", "squared", "absolute")]
    [0.3, 0.375, 3.0, 1.5]
    """
    names = ("correlation", "accuracy", "squared", "absolute")
    return {name: estimate_mean([getattr(each, name) for each in assessments], seed) for name in names}
