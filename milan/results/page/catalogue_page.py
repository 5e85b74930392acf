"""Write the page of a catalogue: its pictures first, then ``index.html``."""

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
    """Write ``index.html`` and its pictures, and return the path of ``index.html``.

    Pictures that exist are not written again. ``index.html`` is written last, when all its pictures exist.

    Args:
        catalogue: the descriptions.
        dissections: the dissection of each layer, by its name.
        folder: where to write.
        sheets: the result of ``write_contact_sheets`` for this folder, if it was called before.
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
    """Return one sentence about the contents of the page."""
    facts = catalogue.facts
    layers = len(catalogue.layers)
    units = (
        f"{len(catalogue.descriptions):,} of {len(catalogue):,} units in {layers}"
        f" {'layer' if layers == 1 else 'layers'}"
    )
    known = {"images", "probe"} <= facts.keys()
    images = (
        f"{facts['images']:,} images of {_shorten_path(str(facts['probe']))}" if known else "the images of its probe"
    )
    each = f", each from its {facts['k']} top-activating images" if "k" in facts else ""
    return clean_text(f"{units}, described by {facts.get('describer') or 'a describer'} from {images}{each}.")


def _shorten_path(path: str) -> str:
    """Return the last two parts of a path; other specs are returned unchanged."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _escape_json(data: dict[str, Any]) -> str:
    """Return JSON for a script element, where only ``<`` is special."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
