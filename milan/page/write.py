"""Writes the page: its pictures first, then ``index.html`` whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from milan.catalogue import Catalogue
from milan.command import clean
from milan.dissection.store import Dissection
from milan.page.data import page_data
from milan.page.document import document, fact_rows
from milan.page.reasons import write_reasons
from milan.page.sheets import Sheet, write_sheets
from milan.storage import atomic
from milan.units import Unit


def write_page(
    catalogue: Catalogue, dissections: Mapping[str, Dissection], folder: Path, sheets: Mapping[Unit, Sheet] | None = None
) -> Path:
    """Writes ``index.html`` and the pictures beside it, and gives the path of the former.

    Run again it makes only the pictures that are not there; ``index.html`` appears when everything it shows is there.

    Args:
        sheets: what ``write_sheets`` gave for this folder, if it was called before.
    """
    if sheets is None:
        drawable = [
            entry.unit for entry in catalogue.entries if entry.unit.layer in dissections and entry.status not in ("dead", "invalid")
        ]
        sheets = write_sheets(dissections, drawable, folder)
    page = _page(catalogue, page_data(catalogue, dissections, sheets, write_reasons(catalogue, dissections, folder, sheets)))
    with atomic(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _page(catalogue: Catalogue, data: dict[str, Any]) -> str:
    facts = catalogue.facts
    return document(
        "index.html.j2",
        styles=["page.css"],
        scripts=["reasons.js", "plate.js", "page.js"],
        title=clean(str(facts.get("target") or "A network")),
        describer=clean(str(facts.get("describer") or "a describer")),
        lede=_lede(catalogue),
        simulated=clean(str(facts.get("simulated") or "")),
        warnings=[clean(str(warning)) for warning in facts.get("warnings", [])],
        facts=fact_rows(facts),
        data=Markup(_data_block(data)),
    )


def _lede(catalogue: Catalogue) -> str:
    """One sentence that says what lies here."""
    facts = catalogue.facts
    layers = len(catalogue.layers)
    said = f"{len(catalogue.descriptions):,} of {len(catalogue):,} units in {layers} {'layer' if layers == 1 else 'layers'}"
    known = {"images", "probe"} <= facts.keys()
    images = f"{facts['images']:,} images of {_short(str(facts['probe']))}" if known else "the images of its probe"
    each = f", each by the {facts['k']} that move it most" if "k" in facts else ""
    return clean(f"{said}, described by {facts.get('describer') or 'a describer'} from {images}{each}.")


def _short(path: str) -> str:
    """The last two parts of a path; what is no path as it is."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _data_block(data: dict[str, Any]) -> str:
    """JSON that no text in it can end: within a script element only ``<`` is special."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
