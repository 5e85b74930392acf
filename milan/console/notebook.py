"""How exemplars, descriptions and catalogues show themselves in a notebook; every text is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from milan.console.exemplar_rendering import encode_webp, highlight_masks, make_image_grid

MAX_ROWS = 60  # of a catalogue; the page shows all
MAX_CANDIDATES = 10
SHOWN = 80  # exemplars of a unit
MUTED_STYLE = 'style="opacity:.65;font-size:90%"'


def render_exemplars(
    name: str,
    images: UInt8[Tensor, "k 3 height width"],
    masks: Bool[Tensor, "k 1 height width"],
    activations: Float[Tensor, " k"],
) -> str:
    """Return a strip of a unit's exemplars with the masked regions highlighted; the picture is part of the HTML."""
    if len(images) == 0:
        return f"<div>{escape(name)}: no exemplars</div>"
    shown = images[:SHOWN]
    grid = make_image_grid(highlight_masks(shown, masks[:SHOWN], 112), per_row=min(8, len(shown)))
    picture = base64.b64encode(encode_webp(grid)).decode()
    limit = f"; the first {SHOWN} are shown" if len(images) > SHOWN else ""
    span = f"activations {float(activations[0]):.3g} to {float(activations[-1]):.3g}"
    caption = f"{escape(name)}: {len(images)} exemplars, {span}{limit}"
    image = f'<img alt="{caption}" src="data:image/webp;base64,{picture}">'
    return f'<figure style="margin:0">{image}<figcaption {MUTED_STYLE}>{caption}</figcaption></figure>'


def render_dissection(title: str, status: Mapping[str, int], strips: Sequence[str]) -> str:
    """Return the title of a dissection, how many units have each status, and strips of exemplars, which are HTML."""
    counts = ", ".join(f"{count:,} {escape(name)}" for name, count in sorted(status.items()))
    head = f"<div>{escape(title)}<br><span {MUTED_STYLE}>{counts}</span></div>"
    more = status.get("ok", 0) - len(strips)
    rest = f"<div {MUTED_STYLE}>and {more:,} more units</div>" if strips and more > 0 else ""
    return head + "".join(strips) + rest


def render_description(
    name: str,
    text: str,
    score: float,
    concepts: Sequence[tuple[str, float]],
    candidates: Sequence[tuple[str, float]],
) -> str:
    """Return a unit's description, the weighted concepts it consists of, and its candidates, folded."""
    caption = f"{escape(name)} · {score:.3g}"
    head = f"<div><big>{escape(text)}</big><br><span {MUTED_STYLE}>{caption}</span></div>"
    parts = "".join(_render_row(concept, weight) for concept, weight in concepts)
    table = f"<table>{parts}</table>" if parts else ""
    rows = "".join(_render_row(*candidate) for candidate in candidates[:MAX_CANDIDATES])
    more = len(candidates) - MAX_CANDIDATES
    rest = f"<tr><td {MUTED_STYLE}>and {more} more</td></tr>" if more > 0 else ""
    summary = f"<summary {MUTED_STYLE}>{len(candidates)} considered</summary>"
    return head + table + (f"<details>{summary}<table>{rows}{rest}</table></details>" if rows else "")


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
