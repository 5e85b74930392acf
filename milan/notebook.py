"""How exemplars, descriptions and catalogues show themselves in a notebook; every text is escaped."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from milan.pictures import lit, sheet, webp

if TYPE_CHECKING:  # units know how they show themselves, so this module stands below them
    from milan.units import Description, Exemplars

ROWS = 60  # of a catalogue; the page shows all
CANDIDATES = 10
SHOWN = 80  # exemplars of a unit
QUIET = 'style="opacity:.65;font-size:90%"'


def exemplars_html(exemplars: "Exemplars") -> str:
    """A strip of the exemplars, lit where the unit fires; the picture is in the HTML itself."""
    name = escape(str(exemplars.unit))
    if len(exemplars.ids) == 0:
        return f"<div>{name}: no exemplars</div>"
    shown, masks = exemplars.images[:SHOWN], exemplars.masks[:SHOWN]
    picture = base64.b64encode(webp(sheet(lit(shown, masks, 112), across=min(8, len(shown))))).decode()
    strongest, weakest = float(exemplars.activations[0]), float(exemplars.activations[-1])
    first = f"; the first {SHOWN} are shown" if len(exemplars.ids) > SHOWN else ""
    told = f"{name}: {len(exemplars.ids)} exemplars, activations {strongest:.3g} to {weakest:.3g}{first}"
    image = f'<img alt="{told}" src="data:image/webp;base64,{picture}">'
    return f'<figure style="margin:0">{image}<figcaption {QUIET}>{told}</figcaption></figure>'


def description_html(description: "Description") -> str:
    """The text, and below it what else was considered, folded."""
    told = f"{escape(str(description.unit))} · {description.score:.3g}"
    head = f"<div><big>{escape(description.text)}</big><br><span {QUIET}>{told}</span></div>"
    parts = "".join(_row(name, weight) for name, weight in description.concepts)
    concepts = f"<table>{parts}</table>" if parts else ""
    rows = "".join(_row(each.text, each.score) for each in description.candidates[:CANDIDATES])
    more = len(description.candidates) - CANDIDATES
    rest = f"<tr><td {QUIET}>and {more} more</td></tr>" if more > 0 else ""
    considered = f"<details><summary {QUIET}>{len(description.candidates)} considered</summary><table>{rows}{rest}</table></details>"
    return head + concepts + (considered if rows else "")


def table_html(rows: Sequence[tuple[str, float | None, str]], counts: Mapping[str, int], note: str = "") -> str:
    """The first of the rows (unit, score or None, text) as a table, how many units have each status, and a note."""
    shown = rows[:ROWS]
    cells = "".join(
        f"<tr><td>{escape(unit)}</td><td>{'' if score is None else f'{score:.3g}'}</td>{_left(text)}</tr>" for unit, score, text in shown
    )
    told = ", ".join(f"{count:,} {escape(status)}" for status, count in counts.items())
    more = f"; the first {len(shown)} are shown" if len(shown) < len(rows) else ""
    said = f"<div {QUIET}>{escape(note)}</div>" if note else ""
    head = '<tr><th>unit</th><th>score</th><th style="text-align:left">description</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{cells}</tbody></table><div {QUIET}>{told}{more}</div>{said}"


def _row(text: str, value: float) -> str:
    return f"<tr>{_left(text)}<td>{value:.3g}</td></tr>"


def _left(text: str) -> str:
    return f'<td style="text-align:left">{escape(text)}</td>'
