"""A report's numbers as they are printed, written and shown."""

import json
import math
from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.experiments.core.report import Column, Report, Row, Table
from milan.scores.confidence_intervals import Measure
from milan.storage.tables import read_csv

COLUMNS = (
    Column("truth", "How true.", "%", 1, "more"),
    Column("count", "How many."),
    Column("time", "How long.", "s", 3, "less"),
)
ROWS = (
    Row("one", {"truth": Measure(0.5, 0.25, 0.75, 0.1, 9), "count": 1234, "time": Measure(0.01)}),
    Row("t|wo <b>", {"truth": Measure(0.25, 0.125, 0.5, 0.1, 9), "count": 7}),
    Row("end", {"truth": Measure(1.0, 1.0, 1.0), "time": math.nan}, "ceiling"),
)
REPORT = Report(
    "toy",
    "A toy </script>",
    "One sentence.",
    (Table("all", COLUMNS, ROWS), Table("by kind", COLUMNS[:1], ())),
    (("50 %", "truth"),),
    ("A note.",),
    sources={"target": "diorama:x"},
)


def test_numbers_are_shown_with_their_interval_unit_and_digits() -> None:
    truth, count, time = COLUMNS
    assert truth.format(Measure(0.5, 0.25, 0.75)) == "50.0 (25.0 to 75.0)"
    assert truth.format(Measure(math.nan)) == "–"
    assert (count.format(1234), count.format(0.5), time.format(-0.01), time.format(None)) == (
        "1,234",
        "0.50",
        "−0.010",
        "–",
    )
    assert truth.heading == "truth, %"


def test_no_zero_is_negative() -> None:
    assert Column("less", "", "", 2).format(Measure(-0.004, -1.0, -0.001)) == "0.00 (−1.00 to 0.00)"


def test_markdown_keeps_cells_apart() -> None:
    lines = REPORT.tables[0].to_markdown().splitlines()
    assert lines[0] == "| describer | truth, % | count | time, s |"
    assert lines[2] == "| one | 50.0 (25.0 to 75.0) | 1,234 | 0.010 |"
    assert lines[3] == "| t\\|wo <b> | 25.0 (12.5 to 50.0) | 7 | – |"
    assert lines[4] == "| end (ceiling) | 100.0 (100.0 to 100.0) | – | – |"


def test_written_files(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    first = read_csv(tmp_path / "table.csv")[0]
    assert (first["describer"], first["truth"], first["truth low"], first["truth high"], first["count"]) == (
        "one",
        "0.5",
        "0.25",
        "0.75",
        "1234",
    )
    assert (tmp_path / "by-kind.csv").is_file()
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["tables"][0]["rows"][2] == {
        "describer": "end", "role": "ceiling", "truth": 1.0, "truth low": 1.0, "truth high": 1.0, "truth error": None,
        "count": None,
        "time": None, "time low": None, "time high": None, "time error": None,
    }  # fmt: skip
    assert facts["headlines"] == [["50 %", "truth"]]
    assert facts["facts"].items() >= {"sources": {"target": "diorama:x"}, "simulated": REPORT.simulated}.items()
    assert facts["facts"].keys() >= {"versions", "warnings"}
    assert "A note." in (tmp_path / "table.md").read_text()
    assert not list(tmp_path.glob(".partial-*"))


def test_interrupted_writing_keeps_the_previous_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    REPORT.write(tmp_path)
    before = (tmp_path / "page" / "index.html").read_text()

    def killed(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("milan.results.page.report_page.render_document", killed)
    with pytest.raises(KeyboardInterrupt):
        REPORT.write(tmp_path)
    assert (tmp_path / "page" / "index.html").read_text() == before


def test_the_page_notes_simulated_parts_and_is_escaped(tmp_path: Path) -> None:
    said = {
        "name": "one",
        "role": "",
        "text": "<img src=x onerror=alert(1)>",
        "reason": "",
        "mark": "exact",
        "score": "0.5",
    }
    REPORT.write(
        tmp_path, [{"id": "layer:0", "group": "single", "truth": "red & blue", "pictures": [], "said": [said]}]
    )
    page = (tmp_path / "page" / "index.html").read_text()
    assert REPORT.simulated in page
    assert "<img src=x" not in page
    assert "A toy </script>" not in page
    assert "script-src 'sha256-" in page
    assert "style=" not in page.split("</style>")[1], "the page's policy would not let it count"
    assert page.count('class="best"') == 1, "of two describers one is the truest; the ceiling does not compete"
    assert 'd="M25.0 3H75.0"' in page


def test_values_without_a_column_are_an_error() -> None:
    with pytest.raises(BadInput, match=r"row x of table all has values for \['trust'\]"):
        Table("all", COLUMNS, (Row("x", {"trust": 1.0}),))


def test_printed_summary(capsys: pytest.CaptureFixture[str]) -> None:
    REPORT.print_summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["one", "50.0", "(25.0", "to", "75.0)", "1,234", "0.010"]
    assert lines[-2:] == ["A note.", REPORT.simulated]
