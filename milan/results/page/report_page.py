"""The page of an experiment: tables with drawn intervals, and the descriptions of each unit beside its exemplars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.results.page.document import format_facts, render_document
from milan.results.page.exemplar_views import PICTURES_PER_ROW, remove_unused
from milan.storage.files import atomic_write

MAX_ROWS = 3  # of a unit's pictures


def write_report_page(view: Mapping[str, Any], folder: Path, units: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write ``folder/index.html`` and return its path.

    Args:
        view: ``name``, ``title``, ``lede``, ``headlines``, ``notes``, ``simulated``, ``facts`` and ``tables`` as a
            ``Report`` gives them.
        folder: where to write.
        units: for each unit ``id``, ``group``, ``truth`` (a text, or empty), ``pictures`` (a sequence of
            ``ExemplarView`` in this folder, drawn one below the other, or None) and ``said``: for each describer
            ``name``, ``role``, ``text``, ``score`` (as shown), ``mark`` (a word, or empty) and ``reason``.
    """
    facts = view["facts"]
    views = [[each for each in unit.get("pictures", ()) if each] for unit in units]
    page = render_document(
        "report.html.j2",
        styles=["page.css", "report.css"],
        scripts=["pictures.js", "report.js"],
        data={
            "data": {
                "across": PICTURES_PER_ROW,
                "most": MAX_ROWS,
                "pictures": [[each.to_plain() for each in some] for some in views],
            }
        },
        view=view,
        warnings=[clean_text(str(warning)) for warning in facts.get("warnings", [])],
        simulated=clean_text(view["simulated"]),
        facts=format_facts(facts),
        units=list(zip(units, views, strict=True)),
        groups=list(dict.fromkeys(unit["group"] for unit in units)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    remove_unused(folder, (each for some in views for each in some))
    return folder / "index.html"
