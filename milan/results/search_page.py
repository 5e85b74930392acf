"""The results of a search as a table, as JSON and as a page."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from milan.console.command_line import get_recorded_warnings
from milan.results.page.exemplar_views import write_exemplar_views, write_exemplars
from milan.results.page.report_page import write_report_page
from milan.results.search import FoundUnit, SearchedRun
from milan.storage.files import lock_folder, safe_name, write_text
from milan.storage.provenance import simulated_note
from milan.storage.software_versions import collect_versions
from milan.storage.tables import write_csv

SCORE_NOTE = (
    "The score of a text is the mean of its similarity to descriptions and to exemplars, each standardized over all"
    " searched units, where a unit without a description counts as average; that of a picture is where its activation"
    " lies between the unit's median (0) and its largest activation (1) over the probe."
)


def write_search(query: str, found: Sequence[FoundUnit], runs: Sequence[SearchedRun], out: Path) -> None:
    """Write found units as ``found.csv`` and ``found.json``, and as a page with their exemplars.

    Args:
        query: the text or the name of the picture that was searched for.
        found: units of ``find_by_text`` or ``find_by_image``.
        runs: the searched runs, whose dissections have the exemplars.
        out: the folder to write to; the page is ``page/index.html`` in it.
    """
    with lock_folder(out):
        rows = [each.to_plain() for each in found]
        write_csv(out / "found.csv", rows)
        write_text(out / "found.json", json.dumps({"query": query, "found": rows}, indent=1, ensure_ascii=False) + "\n")
        known = {run.name: run for run in runs}
        folder = out / "page"
        units = [_make_unit_view(each, known[each.run], folder) for each in found]
        names = ", ".join(known)
        view = {
            "name": "find",
            "title": query,
            "lede": f"The {len(found)} units that answer best of {sum(len(run.units) for run in runs):,} in {names}.",
            "headlines": (),
            "notes": (SCORE_NOTE,),
            "simulated": simulated_note({f"probe of {run.name}": probe for run in runs for probe in _list_probes(run)}),
            "facts": {"target": names, "versions": collect_versions(), "warnings": get_recorded_warnings()},
            "tables": (),
        }
        write_report_page(view, folder, units)


def _make_unit_view(found: FoundUnit, run: SearchedRun, folder: Path) -> dict[str, object]:
    """Return what the page shows of a unit; its exemplars follow the searched picture, if there is one."""
    dissection = run.dissections.get(found.unit.layer)
    pictures = []
    if found.picture is not None:
        pictures.append(write_exemplars(found.picture, folder, f"query/{safe_name(found.run)}"))
    if dissection is not None and found.unit in dissection.status:
        pictures += write_exemplar_views(run.dissections, [found.unit], folder).values()
    said = [{"name": "description", "role": "", "text": found.text, "reason": "not described", "mark": "", "score": ""}]
    for name, value in {"score": found.score, **found.parts}.items():
        said.append({"name": name, "role": "", "text": format_number(value), "reason": "", "mark": "", "score": ""})
    return {
        "id": str(found.unit),
        "group": found.run,
        "truth": "The first picture is the one that was searched for." if found.picture is not None else "",
        "said": said,
        "pictures": pictures,
    }


def _list_probes(run: SearchedRun) -> set[str]:
    return {dissection.probe for dissection in run.dissections.values()}


def format_number(value: float) -> str:
    """Return a number with three digits, or a dash where it is not defined."""
    return f"{value:.3g}" if math.isfinite(value) else "–"
