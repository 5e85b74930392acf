"""Any number of described runs side by side: one table, and one page with every describer's words under each unit's exemplars."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report


def compare(
    runs: list[str],
    units: list[str] | None = None,
    shown: int = 500,
    out: Path = Path("runs/compare"),
    seed: int = 0,
) -> "Report":
    """Sets described runs side by side: compare PLACE PLACE ...

    Args:
        runs: folders that describe.py wrote or tables, ours or published, each PLACE or NAME=PLACE; several of one name are put together
        units: only these, as layer4:17
        shown: units on the page; where there are more, so many are drawn by lot
        out: the folder to write to
        seed: of the draw and of the intervals
    """
    from milan.experiments.comparison.beside import cases, drawn, report_of
    from milan.experiments.describing.runs import pictured, runs_of, units_of, with_pictures
    from milan.page import write_sheets
    from milan.storage import locked

    found = runs_of(runs)
    asked = units_of(found, units or ())
    some = drawn(asked, shown, seed)
    with locked(out):
        dissections = pictured(found, asked)
        report = report_of(found, asked, dissections, len(some), seed)
        sheets = write_sheets(dissections, with_pictures(dissections, some), out / "page")
        report.write(out, [case | {"sheet": sheets.get(unit)} for unit, case in zip(some, cases(found, some, dissections), strict=True)])
    return report
