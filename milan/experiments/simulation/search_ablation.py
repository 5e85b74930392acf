"""What the greedy search contributes to Linear Explanations (Table 8 of the paper)."""

from collections.abc import Sequence

from milan.describers.linear_explanations import LinearExplanations
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, run_describer
from milan.experiments.core.report import Column, Row, Table
from milan.experiments.core.study import Study
from milan.experiments.simulation.tables import CONCEPTS_COLUMN, METRIC_TEXTS, DescriberSimulation, SimulationScorer

PAPER_LENGTHS = (5, 4)


def make_search_table(
    study: Study, scorer: SimulationScorer, scores: Sequence[DescriberSimulation], lengths: Sequence[int]
) -> list[Table]:
    """Return a table of each Linear Explanations with and without its greedy search; no table if there is none.

    Args:
        scores: of the study's describers, in their order; floors may follow.
        lengths: the numbers of concepts with the largest weights that replace the search's result.
    """
    rows = []
    for evaluated, own_scores in zip(study.describers, scores, strict=False):
        describer = evaluated.describer
        if not lengths or not isinstance(describer, LinearExplanations) or describer.search != "greedy":
            continue
        rows.append(_make_row(own_scores, scorer.seed))
        for length in lengths:
            name = f"{evaluated.name}, the {length} largest weights"
            other = EvaluatedDescriber(name, describer.with_search("largest", length))
            folder = study.out / "describers" / f"{evaluated.name}-largest-{length}"
            run_describer(other, study.dissections, study.units, folder)
            rows.append(_make_row(scorer.score(name, "", other.descriptions), scorer.seed))
    column = Column("correlation", METRIC_TEXTS["correlation"], "", 3, "more")
    return [Table("without greedy search", (column, CONCEPTS_COLUMN), tuple(rows))] if rows else []


def _make_row(scores: DescriberSimulation, seed: int) -> Row:
    return Row(
        scores.name, {"correlation": scores.compute_mean("correlation", seed), "concepts": scores.count_concepts()}
    )
