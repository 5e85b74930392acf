"""The page of an experiment: its tables with intervals drawn, and what was said of each unit beside its exemplars."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milan.console.command_line import clean_text
from milan.results.page.contact_sheets import PICTURES_PER_ROW
from milan.results.page.document import format_facts, render_document
from milan.storage.files import atomic_write


def write_report_page(view: Mapping[str, Any], folder: Path, units: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Writes ``folder/index.html`` and says where it is.

    Args:
        view: ``name``, ``title``, ``lede``, ``headlines``, ``notes``, ``simulated``, ``facts`` and ``tables`` as a
            ``Report`` gives them.
        units: of each unit ``id``, ``group``, ``truth`` (a text, or empty), ``sheet`` (a ``Sheet`` in this folder, or
            None) and ``said``: of each describer ``name``, ``role``, ``text``, ``score`` (as shown), ``mark`` (a word,
            or empty) and ``reason``.
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
