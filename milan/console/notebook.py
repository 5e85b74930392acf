"""How exemplars, descriptions and catalogues show themselves in a notebook; every text is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from milan.console.exemplar_rendering import encode_webp, highlight_masks, make_image_grid

if TYPE_CHECKING:  # units know how they show themselves, so this module stands below them
    from milan.units import Description, Exemplars

MAX_ROWS = 60  # of a catalogue; the page shows all
MAX_CANDIDATES = 10
SHOWN = 80  # exemplars of a unit
MUTED_STYLE = 'style="opacity:.65;font-size:90%"'


def render_exemplars(exemplars: "Exemplars") -> str:
    """A strip of the exemplars, lit where the unit fires; the picture is in the HTML itself."""
    name = escape(str(exemplars.unit))
    if len(exemplars.ids) == 0:
        return f"<div>{name}: no exemplars</div>"
    shown, masks = exemplars.images[:SHOWN], exemplars.masks[:SHOWN]
    picture = base64.b64encode(
        encode_webp(make_image_grid(highlight_masks(shown, masks, 112), per_row=min(8, len(shown))))
    ).decode()
    strongest, weakest = float(exemplars.activations[0]), float(exemplars.activations[-1])
    first = f"; the first {SHOWN} are shown" if len(exemplars.ids) > SHOWN else ""
    caption = f"{name}: {len(exemplars.ids)} exemplars, activations {strongest:.3g} to {weakest:.3g}{first}"
    image = f'<img alt="{caption}" src="data:image/webp;base64,{picture}">'
    return f'<figure style="margin:0">{image}<figcaption {MUTED_STYLE}>{caption}</figcaption></figure>'


def render_description(description: "Description") -> str:
    """The text, and below it what else was considered, folded."""
    caption = f"{escape(str(description.unit))} · {description.score:.3g}"
    head = f"<div><big>{escape(description.text)}</big><br><span {MUTED_STYLE}>{caption}</span></div>"
    parts = "".join(_render_row(name, weight) for name, weight in description.concepts)
    concepts = f"<table>{parts}</table>" if parts else ""
    rows = "".join(_render_row(each.text, each.score) for each in description.candidates[:MAX_CANDIDATES])
    more = len(description.candidates) - MAX_CANDIDATES
    rest = f"<tr><td {MUTED_STYLE}>and {more} more</td></tr>" if more > 0 else ""
    considered = (
        f"<details><summary {MUTED_STYLE}>{len(description.candidates)}"
        f" considered</summary><table>{rows}{rest}</table></details>"
    )
    return head + concepts + (considered if rows else "")


def render_table(rows: Sequence[tuple[str, float | None, str]], counts: Mapping[str, int], note: str = "") -> str:
    """The first of the rows (unit, score or None, text) as a table, how many units have each status, and a note."""
    shown = rows[:MAX_ROWS]
    cells = "".join(
        f"<tr><td>{escape(unit)}</td><td>{'' if score is None else f'{score:.3g}'}</td>{_render_text_cell(text)}</tr>"
        for unit, score, text in shown
    )
    summary = ", ".join(f"{count:,} {escape(status)}" for status, count in counts.items())
    more = f"; the first {len(shown)} are shown" if len(shown) < len(rows) else ""
    said = f"<div {MUTED_STYLE}>{escape(note)}</div>" if note else ""
    head = '<tr><th>unit</th><th>score</th><th style="text-align:left">description</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{cells}</tbody></table><div {MUTED_STYLE}>{summary}{more}</div>{said}"


def _render_row(text: str, value: float) -> str:
    return f"<tr>{_render_text_cell(text)}<td>{value:.3g}</td></tr>"


def _render_text_cell(text: str) -> str:
    return f'<td style="text-align:left">{escape(text)}</td>'
