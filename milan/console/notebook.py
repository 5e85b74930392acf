"""HTML that exemplars, descriptions and catalogues show in a notebook, from ``templates/notebook.html.j2``."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jaxtyping import Bool, Float, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from milan.console.exemplar_rendering import encode_webp, highlight_masks, make_image_grid

MAX_ROWS = 40  # rows of a catalogue; its page shows all of them
MAX_CANDIDATES = 10
MAX_EXEMPLARS = 80  # pictures of one unit
ROW_EXEMPLARS = 6  # pictures beside one row of a catalogue
PICTURE_SIZE, ROW_PICTURE_SIZE = 112, 56  # pixels of a picture's longer side


@dataclass(frozen=True)
class CatalogueRow:
    """One row of a catalogue.

    Attributes:
        unit: its name, such as ``layer4:17``.
        score: of the description; None for a unit without one.
        text: the description, or the reason why there is none.
        picture: the exemplars as WebP in base64; empty where they are not available.
    """

    unit: str
    score: float | None
    text: str
    picture: str = ""


def render_exemplars(
    name: str,
    images: UInt8[Tensor, "k 3 height width"],
    masks: Bool[Tensor, "k 1 height width"],
    activations: Float[Tensor, " k"],
) -> str:
    """Return a unit's exemplars with their masks highlighted, as one picture inside the HTML."""
    if len(images) == 0:
        return _render("no_exemplars", name)
    limit = f"; the first {MAX_EXEMPLARS} are shown" if len(images) > MAX_EXEMPLARS else ""
    span = f"activations {float(activations[0]):.3g} to {float(activations[-1]):.3g}"
    grid = _encode_exemplars(images[:MAX_EXEMPLARS], masks[:MAX_EXEMPLARS], PICTURE_SIZE, 8)
    return _render("exemplars", f"{name}: {len(images)} exemplars, {span}{limit}", grid)


def encode_row_exemplars(images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"]) -> str:
    """Return the first exemplars of a unit in one row, as WebP in base64; empty if there are none."""
    if len(images) == 0:
        return ""
    return _encode_exemplars(images[:ROW_EXEMPLARS], masks[:ROW_EXEMPLARS], ROW_PICTURE_SIZE, ROW_EXEMPLARS)


def render_dissection(title: str, status: Mapping[str, int], strips: Sequence[str]) -> str:
    """Return the title of a dissection, how many units have each status, and strips of exemplars, which are HTML."""
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(status.items()))
    rest = status.get("ok", 0) - len(strips) if strips else 0
    return _render("dissection", title, counts, [Markup(strip) for strip in strips], rest)


def render_description(
    name: str,
    text: str,
    score: float,
    concepts: Sequence[tuple[str, float]],
    candidates: Sequence[tuple[str, float]],
) -> str:
    """Return a description with its weighted concepts, and its candidates in a folded list."""
    return _render("description", name, text, score, list(concepts), list(candidates), MAX_CANDIDATES)


def render_catalogue(rows: Sequence[CatalogueRow], total: int, counts: Mapping[str, int], note: str = "") -> str:
    """Return rows of a catalogue as a table.

    Args:
        rows: the rows to show, at most ``MAX_ROWS``.
        total: the number of rows of the whole catalogue.
        counts: the number of units of each status.
        note: shown below the table.
    """
    summary = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    limit = f"; the first {len(rows)} are shown" if len(rows) < total else ""
    return _render("catalogue", list(rows), summary + limit, note)


def _encode_exemplars(images: Tensor, masks: Tensor, size: int, per_row: int) -> str:
    grid = make_image_grid(highlight_masks(images, masks, size), per_row=min(per_row, len(images)))
    return base64.b64encode(encode_webp(grid)).decode()


def _render(macro: str, *values: Any) -> str:
    return str(getattr(_environment().get_template("notebook.html.j2").module, macro)(*values)).strip()


@cache
def _environment() -> Environment:
    loader = PackageLoader("milan.console")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: f"{value:.3g}"
    return environment
