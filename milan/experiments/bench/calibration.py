"""Calibration: among descriptions with a confidence, the share that is true, by confidence."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Row, Table, Value
from milan.scores.confidence_intervals import estimate_mean, estimate_share
from milan.units import Unit

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# A description counts as true if its truth score is at least this.
MIN_TRUTH = 0.5
COLUMNS = (
    Column("descriptions", "Number of descriptions with such a confidence."),
    Column("confidence", "The mean of the confidence that the describer states.", "%", 1),
    Column("true", f"The share whose truth score is at least {MIN_TRUTH:.1f}.", "%", 1),
)
ScoreFunction = Callable[[Unit, str], float]


def make_calibration_tables(describers: Sequence[EvaluatedDescriber], score: ScoreFunction) -> list[Table]:
    """Return the table of the describers whose descriptions have a confidence; none if there are no such describers.

    Args:
        score: the truth score of a text about a unit, 0..1; NaN for units that do not count.
    """
    rows = [row for each in describers for row in _make_rows(each, score)]
    return [Table("calibration", COLUMNS, tuple(rows), "describer and confidence")] if rows else []


def _make_rows(evaluated: EvaluatedDescriber, score: ScoreFunction) -> list[Row]:
    judged = [
        (float(each.reasoning["confidence"]), score(each.unit, each.text))
        for each in evaluated.descriptions
        if "confidence" in each.reasoning
    ]
    judged = [(confidence, truth) for confidence, truth in judged if truth == truth]
    rows = []
    for low, high in pairwise(EDGES):
        part = [pair for pair in judged if low <= pair[0] < high or pair[0] == high == EDGES[-1]]
        if part:
            values: dict[str, Value] = {
                "descriptions": len(part),
                "confidence": estimate_mean([confidence for confidence, _ in part]).value,
                "true": estimate_share([truth >= MIN_TRUTH for _, truth in part]),
            }
            rows.append(Row(f"{evaluated.name}, {low:.1f} to {high:.1f}", values, evaluated.role))
    return rows
