"""What the greedy search is worth to Linear Explanations: their table 8."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from milan.describers.linear_explanations import LinearExplanations
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, run_describer
from milan.experiments.core.report import Column, Row, Table
from milan.experiments.simulation.tables import (
    CONCEPTS_COLUMN,
    METRIC_TEXTS,
    SimulatedDescriber,
    SimulationSetup,
    list_descriptions,
)
from milan.units import Unit

PAPER_LENGTHS = (5, 4)  # of the paper's table


def make_search_table(
    setup: SimulationSetup,
    scored: Sequence[tuple[EvaluatedDescriber, SimulatedDescriber]],
    units_by_layer: Mapping[str, Sequence[Unit]],
    lengths: Sequence[int],
    folder: Path,
) -> list[Table]:
    """Each Linear Explanations beside itself with the concepts that weigh most, so many of them; no table where there
    is none.

    Args:
        scored: all who were judged, with what they scored.
        lengths: how many concepts are named without the search.
        folder: where what is said is kept.
    """
    rows = []
    for evaluated, scored_describer in scored:
        if not (
            lengths and isinstance(evaluated.describer, LinearExplanations) and evaluated.describer.search == "greedy"
        ):
            continue
        rows.append(_make_row(setup, evaluated.name, scored_describer))
        for length in lengths:
            other = EvaluatedDescriber(
                f"{evaluated.name}, the {length} that weigh most", evaluated.describer.with_search("largest", length)
            )
            run_describer(
                other, setup.explained_dissections, units_by_layer, folder / f"{evaluated.name}-largest-{length}"
            )
            rows.append(_make_row(setup, other.name, setup.score_describer(other.name, "", list_descriptions(other))))
    column = Column("correlation", METRIC_TEXTS["correlation"], "", 3, "more")
    return [Table("without greedy search", (column, CONCEPTS_COLUMN), tuple(rows))] if rows else []


def _make_row(setup: SimulationSetup, name: str, one: SimulatedDescriber) -> Row:
    return Row(name, {"correlation": one.compute_mean("correlation", setup.seed), "concepts": one.count_concepts()})
