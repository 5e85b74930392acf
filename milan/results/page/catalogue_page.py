"""The page of a catalogue: ``index.html`` with its images and data beside it, or one file that contains them."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from markupsafe import Markup

from milan.console.text_cleaning import clean_text
from milan.dissection.dissection import Dissection
from milan.results.catalogue import Catalogue
from milan.results.neighbours import UnitNeighbours
from milan.results.page.data_files import DataFiles
from milan.results.page.document import format_facts, render_document
from milan.results.page.exemplar_views import (
    ExemplarView,
    inline_images,
    make_data_url,
    remove_unused,
    write_exemplar_views,
)
from milan.results.page.page_data import build_page_data
from milan.results.page.reasoning import write_reasoning_pictures
from milan.storage.files import write_text
from milan.units import Unit


def write_page(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    folder: Path,
    views: Mapping[Unit, ExemplarView] | None = None,
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> Path:
    """Write ``index.html`` with its images and data, and return the path of ``index.html``.

    Files that exist are not written again. ``index.html`` is written when all files that it refers to exist, and files
    of an earlier page are removed last.

    Args:
        catalogue: the descriptions.
        dissections: the dissection of each layer, by its name.
        folder: where to write.
        views: the result of ``write_exemplar_views`` for this folder, if it was called before.
        neighbours: of ``find_neighbours``; by default the page shows none.
    """
    files = DataFiles(folder)
    views = _write_views(catalogue, dissections, folder) if views is None else views
    reasons = write_reasoning_pictures(catalogue, dissections, folder)
    data = build_page_data(catalogue, dissections, views, reasons, files.add, neighbours)
    # The map of units finds the pictures of a unit by it.
    files.write("layers", data)
    has_map = (folder / "map.html").exists()
    write_text(folder / "index.html", _render_page(catalogue, {"data": data}, loads_data=True, unit_map=has_map))
    files.remove_others()
    remove_unused(folder, views.values())
    return folder / "index.html"


def render_single_file(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> str:
    """Return the page as one HTML document that has its images and data within it; it has no map."""
    files = DataFiles(None)
    with TemporaryDirectory() as name:
        folder = Path(name)
        views = _write_views(catalogue, dissections, folder)
        reasons = {
            unit: view.inlined(lambda file: make_data_url(folder / file))
            for unit, view in write_reasoning_pictures(catalogue, dissections, folder).items()
        }
        data = build_page_data(catalogue, dissections, views, reasons, files.add, neighbours)
        images = inline_images(views.values(), folder)
    parts = {f"data-{name}": Markup(text) for name, text in files.inlined.items()}
    return _render_page(catalogue, {"data": data, "images": images} | parts, loads_data=False)


def _write_views(catalogue: Catalogue, dissections: Mapping[str, Dissection], folder: Path) -> dict[Unit, ExemplarView]:
    units = [
        entry.unit
        for entry in catalogue.entries
        if entry.unit.layer in dissections and entry.status not in ("dead", "invalid")
    ]
    return write_exemplar_views(dissections, units, folder)


def _render_page(catalogue: Catalogue, data: Mapping[str, Any], *, loads_data: bool, unit_map: bool = False) -> str:
    facts = catalogue.facts
    return render_document(
        "index.html.j2",
        styles=["page.css", "neighbours.css"],
        scripts=["data.js", "pictures.js", "reasons.js", "neighbours.js", "plate.js", "grid.js", "page.js"],
        data=data,
        loads_data=loads_data,
        unit_map=unit_map,
        title=clean_text(str(facts.get("target") or "A network")),
        describer=clean_text(str(facts.get("describer") or "a describer")),
        lede=_format_summary(catalogue),
        simulated=clean_text(str(facts.get("simulated") or "")),
        warnings=[clean_text(str(warning)) for warning in facts.get("warnings", [])],
        facts=format_facts(facts),
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
