"""Any number of described runs side by side: one table, and one page with every describer's words under each unit's
exemplars.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def compare(
    runs: list[str],
    units: list[str] | None = None,
    shown: int = 500,
    out: Path = Path("runs/compare"),
    seed: int = 0,
) -> "Report":
    """Sets described runs side by side: compare PLACE PLACE ...

    Args:
        runs: folders that describe.py wrote or tables, ours or published, each PLACE or NAME=PLACE; several of one name
            are put together
        units: only these, as layer4:17
        shown: units on the page; where there are more, so many are drawn by lot
        out: the folder to write to
        seed: of the draw and of the intervals
    """
    from milan.experiments.compare.tables import make_report, make_unit_views, sample_units
    from milan.experiments.core.described_runs import find_dissections, list_units, load_runs, select_units_with_images
    from milan.results.page import write_contact_sheets
    from milan.storage.files import lock_folder

    found = load_runs(runs)
    asked = list_units(found, units or ())
    some = sample_units(asked, shown, seed)
    with lock_folder(out):
        dissections = find_dissections(found, asked)
        report = make_report(found, asked, dissections, len(some), seed)
        sheets = write_contact_sheets(dissections, select_units_with_images(dissections, some), out / "page")
        report.write(
            out,
            [
                case | {"sheet": sheets.get(unit)}
                for unit, case in zip(some, make_unit_views(found, some, dissections), strict=True)
            ],
        )
    return report
