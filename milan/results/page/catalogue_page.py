"""The page of a catalogue: ``index.html`` beside its pictures, or one file with the pictures in it."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from markupsafe import Markup

from milan.console.text_cleaning import clean_text
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.results.catalogue import Catalogue
from milan.results.neighbours import UnitNeighbours
from milan.results.page.contact_sheets import MAX_PICTURES, ContactSheet, write_contact_sheets
from milan.results.page.document import format_facts, render_document
from milan.results.page.page_data import build_page_data
from milan.results.page.reasoning import write_reasoning_pictures
from milan.storage.files import write_text
from milan.units import Unit


def write_page(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    folder: Path,
    sheets: Mapping[Unit, ContactSheet] | None = None,
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> Path:
    """Write ``index.html`` and its pictures, and return the path of ``index.html``.

    Pictures that exist are not written again. ``index.html`` is written last, when all its pictures exist.

    Args:
        catalogue: the descriptions.
        dissections: the dissection of each layer, by its name.
        folder: where to write.
        sheets: the result of ``write_contact_sheets`` for this folder, if it was called before.
        neighbours: of ``find_neighbours``; by default the page shows none.
    """
    data = _build_data(catalogue, dissections, folder, sheets, neighbours)
    write_text(folder / "index.html", _render_page(catalogue, data, unit_map=(folder / "map.html").exists()))
    return folder / "index.html"


def render_single_file(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> str:
    """Return the page as one HTML document that has its pictures within it; it has no map.

    Raises:
        BadInput: a unit has more exemplars than one picture file holds.
    """
    if wide := [layer for layer, dissection in dissections.items() if dissection.k > MAX_PICTURES]:
        count = dissections[wide[0]].k
        raise BadInput(f"units of {wide[0]} have {count} exemplars and a single-file page shows at most {MAX_PICTURES}")
    with TemporaryDirectory() as name:
        data = _build_data(catalogue, dissections, Path(name), None, neighbours)
        for unit in (unit for layer in data["layers"] for unit in layer["units"]):
            unit["picture"] = _inline_picture(Path(name), unit["picture"])
            if unit["reasoning"]:
                files = unit["reasoning"]["files"]
                unit["reasoning"]["files"] = {role: _inline_picture(Path(name), file) for role, file in files.items()}
        return _render_page(catalogue, data)


def _build_data(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    folder: Path,
    sheets: Mapping[Unit, ContactSheet] | None,
    neighbours: Mapping[Unit, UnitNeighbours] | None,
) -> dict[str, Any]:
    """Write the pictures and return the page's data."""
    if sheets is None:
        drawable = [
            entry.unit
            for entry in catalogue.entries
            if entry.unit.layer in dissections and entry.status not in ("dead", "invalid")
        ]
        sheets = write_contact_sheets(dissections, drawable, folder)
    reasons = write_reasoning_pictures(catalogue, dissections, folder, sheets)
    return build_page_data(catalogue, dissections, sheets, reasons, neighbours)


def _inline_picture(folder: Path, file: str) -> str:
    """Return a picture file as a data URL; empty if there is none."""
    if not file:
        return ""
    return f"data:image/webp;base64,{base64.b64encode((folder / file).read_bytes()).decode()}"


def _render_page(catalogue: Catalogue, data: dict[str, Any], unit_map: bool = False) -> str:
    facts = catalogue.facts
    return render_document(
        "index.html.j2",
        styles=["page.css", "neighbours.css"],
        scripts=["reasons.js", "neighbours.js", "plate.js", "page.js"],
        unit_map=unit_map,
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
