"""What the documentation says of the metrics is what their exam finds."""

import re
from pathlib import Path

from milan.scores.agreement import METRICS
from milan.scores.exam import exam

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"


def test_the_documented_marks_are_those_of_the_exam() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) \| (\d+) \|", PAGE.read_text(), re.M)
    assert [name for name, *_ in rows] == list(METRICS)
    found = exam(runs=2)
    for name, *told in rows:
        marks = (100 * found[name].missing, 100 * found[name].extra)
        spread = 20 if name == "accuracy" else 0.5  # see test_agreement
        assert all(abs(mark - float(each)) <= spread for mark, each in zip(marks, told, strict=True)), (name, marks)
