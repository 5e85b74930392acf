"""What the greedy search is worth to Linear Explanations: their table 8."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from milan.describers.linear_explanations import LinearExplanations
from milan.experiments.describing.entrants import Entrant, describe_with
from milan.experiments.prediction.activations import CONCEPTS, TEXTS, Judged, Stage, told_by
from milan.experiments.reporting.report import Column, Row, Table
from milan.units import Unit

LENGTHS = (5, 4)  # of the paper's table


def search_table(
    stage: Stage, found: Sequence[tuple[Entrant, Judged]], wanted: Mapping[str, Sequence[Unit]], lengths: Sequence[int], folder: Path
) -> list[Table]:
    """Each Linear Explanations beside itself with the concepts that weigh most, so many of them; no table where there is none.

    Args:
        found: all who were judged, with what they scored.
        lengths: how many concepts are named without the search.
        folder: where what is said is kept.
    """
    rows = []
    for entrant, judged in found:
        if not (lengths and isinstance(entrant.describer, LinearExplanations) and entrant.describer.search == "greedy"):
            continue
        rows.append(_row(stage, entrant.name, judged))
        for length in lengths:
            other = Entrant(f"{entrant.name}, the {length} that weigh most", entrant.describer.otherwise("largest", length))
            describe_with(other, stage.explained, wanted, folder / f"{entrant.name}-largest-{length}")
            rows.append(_row(stage, other.name, stage.judge(other.name, "", told_by(other))))
    column = Column("correlation", TEXTS["correlation"], "", 3, "more")
    return [Table("without greedy search", (column, CONCEPTS), tuple(rows))] if rows else []


def _row(stage: Stage, name: str, one: Judged) -> Row:
    return Row(name, {"correlation": one.mean("correlation", stage.seed), "concepts": one.concepts()})
