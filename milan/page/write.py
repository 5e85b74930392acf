"""Writes the page: its pictures first, then ``index.html`` whole."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from milan.catalogue import Catalogue
from milan.command import clean
from milan.dissection.store import Dissection
from milan.page.data import page_data
from milan.page.sheets import Sheet, write_sheets
from milan.storage import atomic
from milan.units import Unit

SIMULATED = (
    "Simulated: Diorama is a small world that the package draws itself. Its pictures, its networks and the annotators whose words "
    "its describer learnt from are all made up; nothing here was said by a person."
)
SHOWN = ("target", "probe", "describer", "settings", "images", "k", "quantile", "seed", "device", "weights")


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
    page = _page(catalogue, page_data(catalogue, dissections, sheets))
    with atomic(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")
    return folder / "index.html"


def _page(catalogue: Catalogue, data: dict[str, Any]) -> str:
    style = _static("page.css")
    script = _static("plate.js") + _static("page.js")
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; script-src {_hashed(script)}; style-src {_hashed(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    facts = catalogue.facts
    environment = Environment(
        loader=PackageLoader("milan.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("index.html.j2").render(
        title=clean(str(facts.get("target") or "A network")),
        describer=clean(str(facts.get("describer") or "a describer")),
        lede=_lede(catalogue),
        simulated=SIMULATED if "diorama:" in f"{facts.get('target')} {facts.get('probe')} {facts.get('settings')}" else "",
        warnings=[clean(str(warning)) for warning in facts.get("warnings", [])],
        facts=_facts(facts),
        policy=Markup(policy),
        style=Markup(style),
        script=Markup(script),
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


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands at the foot: the options that decide the result, then hashes and versions, each on its line."""
    shown = [(name, facts[name]) for name in SHOWN if facts.get(name) not in (None, "", {}, [])]
    hashes = [(f"hash of {name}", str(value)[:16]) for name, value in dict(facts.get("hashes", {})).items()]
    made = [("versions", " · ".join(f"{name} {value}" for name, value in dict(facts.get("versions", {})).items()))]
    return [(clean(name), clean(_told(value))) for name, value in [*shown, *hashes, *made] if value]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data_block(data: dict[str, Any]) -> str:
    """JSON that no text in it can end: within a script element only ``<`` is special."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _static(name: str) -> str:
    return files("milan.page").joinpath("static", name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """The source expression that lets this very inline text run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
