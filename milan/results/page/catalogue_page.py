"""Writes the page: its pictures first, then ``index.html`` whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from milan.console.command_line import clean_text
from milan.dissection.store import Dissection
from milan.results.catalogue import Catalogue
from milan.results.page.contact_sheets import ContactSheet, write_contact_sheets
from milan.results.page.document import format_facts, render_document
from milan.results.page.page_data import build_page_data
from milan.results.page.reasoning import write_reasoning_pictures
from milan.storage.files import atomic_write
from milan.units import Unit


def write_page(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    folder: Path,
    sheets: Mapping[Unit, ContactSheet] | None = None,
) -> Path:
    """Writes ``index.html`` and the pictures beside it, and gives the path of the former.

    Run again it makes only the pictures that are not there; ``index.html`` appears when everything it shows is there.

    Args:
        sheets: what ``write_contact_sheets`` gave for this folder, if it was called before.
    """
    if sheets is None:
        drawable = [
            entry.unit
            for entry in catalogue.entries
            if entry.unit.layer in dissections and entry.status not in ("dead", "invalid")
        ]
        sheets = write_contact_sheets(dissections, drawable, folder)
    page = _render_page(
        catalogue,
        build_page_data(
            catalogue, dissections, sheets, write_reasoning_pictures(catalogue, dissections, folder, sheets)
        ),
    )
    with atomic_write(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _render_page(catalogue: Catalogue, data: dict[str, Any]) -> str:
    facts = catalogue.facts
    return render_document(
        "index.html.j2",
        styles=["page.css"],
        scripts=["reasons.js", "plate.js", "page.js"],
        title=clean_text(str(facts.get("target") or "A network")),
        describer=clean_text(str(facts.get("describer") or "a describer")),
        lede=_format_summary(catalogue),
        simulated=clean_text(str(facts.get("simulated") or "")),
        warnings=[clean_text(str(warning)) for warning in facts.get("warnings", [])],
        facts=format_facts(facts),
        data=Markup(_escape_json(data)),
    )


def _format_summary(catalogue: Catalogue) -> str:
    """One sentence that says what lies here."""
    facts = catalogue.facts
    layers = len(catalogue.layers)
    said = (
        f"{len(catalogue.descriptions):,} of {len(catalogue):,} units in {layers}"
        f" {'layer' if layers == 1 else 'layers'}"
    )
    known = {"images", "probe"} <= facts.keys()
    images = (
        f"{facts['images']:,} images of {_shorten_path(str(facts['probe']))}" if known else "the images of its probe"
    )
    each = f", each by the {facts['k']} that move it most" if "k" in facts else ""
    return clean_text(f"{said}, described by {facts.get('describer') or 'a describer'} from {images}{each}.")


def _shorten_path(path: str) -> str:
    """The last two parts of a path; what is no path as it is."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _escape_json(data: dict[str, Any]) -> str:
    """JSON that no text in it can end: within a script element only ``<`` is special."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
