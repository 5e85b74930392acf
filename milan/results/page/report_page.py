"""The page of an experiment: tables with drawn intervals, and the descriptions of each unit beside its exemplars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.results.page.contact_sheets import PICTURES_PER_ROW
from milan.results.page.document import format_facts, render_document
from milan.storage.files import atomic_write


def write_report_page(view: Mapping[str, Any], folder: Path, units: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write ``folder/index.html`` and return its path.

    Args:
        view: ``name``, ``title``, ``lede``, ``headlines``, ``notes``, ``simulated``, ``facts`` and ``tables`` as a
            ``Report`` gives them.
        folder: where to write.
        units: for each unit ``id``, ``group``, ``truth`` (a text, or empty), ``sheet`` (a ``ContactSheet`` in this
            folder, or None) and ``said``: for each describer ``name``, ``role``, ``text``, ``score`` (as shown),
            ``mark`` (a word, or empty) and ``reason``.
    """
    facts = view["facts"]
    page = render_document(
        "report.html.j2",
        styles=["page.css", "report.css"],
        scripts=["report.js"],
        view=view,
        warnings=[clean_text(str(warning)) for warning in facts.get("warnings", [])],
        simulated=clean_text(view["simulated"]),
        facts=format_facts(facts),
        units=units,
        groups=list(dict.fromkeys(unit["group"] for unit in units)),
        across=PICTURES_PER_ROW,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / "index.html"
