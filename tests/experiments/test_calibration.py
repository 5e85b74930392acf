"""The calibration of describers with a confidence."""

import pytest

from milan.describers import load_describer
from milan.experiments.bench.calibration import make_calibration_tables
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.results.catalogue import Entry
from milan.units import Description, Unit


def make_evaluated(confidences: list[float | None]) -> EvaluatedDescriber:
    found = EvaluatedDescriber("sure", load_describer("constant", text="cats"))
    for index, confidence in enumerate(confidences):
        unit = Unit("a", index)
        reasoning = {} if confidence is None else {"confidence": confidence}
        found.entries.append(Entry(unit, "ok", Description(unit, str(index), 0.0, reasoning=reasoning)))
    return found


def test_shares_of_true_descriptions_by_confidence() -> None:
    truths = [0.4, 0.6, 1.0, 0.5, float("nan"), 0.9]
    evaluated = make_evaluated([0.1, 0.3, 0.9, 1.0, 0.9, None])
    (table,) = make_calibration_tables([evaluated], lambda unit, text: truths[unit.index])
    rows = {row.name: row.values for row in table.rows}
    assert list(rows) == ["sure, 0.0 to 0.2", "sure, 0.2 to 0.4", "sure, 0.8 to 1.0"]
    assert [row["descriptions"] for row in rows.values()] == [1, 1, 2]
    assert [row["true"].value for row in rows.values()] == [0.0, 1.0, 1.0]
    assert rows["sure, 0.8 to 1.0"]["confidence"] == pytest.approx(0.95)


def test_there_is_no_table_without_confidences() -> None:
    assert make_calibration_tables([make_evaluated([None])], lambda unit, text: 1.0) == []
