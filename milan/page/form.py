"""A form that people fill in, as one page that opens from the file system: what they answer stays in it until they save it as a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from milan.command import clean
from milan.page.document import document
from milan.page.sheets import ACROSS, Sheet
from milan.provenance import Sources, simulated_note
from milan.storage import atomic

AGREEMENT = ("Strongly disagree", "Disagree", "Neither agree nor disagree", "Agree", "Strongly agree")
Kind = Literal["text", "rating", "choice"]


@dataclass(frozen=True)
class Item:
    """One unit in a form.

    Attributes:
        id: by which its answers are found again; says nothing of who described the unit.
        sheet: its exemplars, a picture beside the form.
        options: the texts to be rated or chosen from, in the order in which they are shown.
    """

    id: str
    sheet: Sheet | None
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """Items that are asked the same.

    Attributes:
        kind: text (a sentence is written), rating (each option from 1 to 5, and which is best), choice (one of the options).
        question: what is asked of each.
        best: the second question of a rating; empty if it is not asked.
        several: whether more than one may be called best, where they tie.
    """

    kind: Kind
    title: str
    instructions: Sequence[str]
    question: str
    items: Sequence[Item]
    best: str = ""
    several: bool = True


@dataclass(frozen=True)
class Form:
    """A page of parts.

    Attributes:
        id: of this very form: answers to another are not taken for answers to it.
        file: the name under which answers are saved.
        rater: whether the person is asked for a name, by which raters are told apart.
        across: pictures in a row of each sheet.
    """

    id: str
    title: str
    lede: str
    parts: Sequence[Part]
    file: str = "answers.json"
    rater: bool = True
    notes: Sequence[str] = field(default_factory=tuple)
    across: int = ACROSS


def write_form(form: Form, file: Path, sources: Sources) -> Path:
    """Writes the page; pictures are looked for beside it.

    Args:
        sources: what the units shown are from, by role and without the names of describers.
    """
    page = document(
        "form.html.j2",
        styles=["page.css", "form.css"],
        scripts=["form.js"],
        form=form,
        parts=[_shown(part) for part in form.parts],
        simulated=clean(simulated_note(sources)),
        levels=list(enumerate(AGREEMENT, 1)),
        across=form.across,
        data=Markup(json.dumps(_data(form), ensure_ascii=False).replace("<", "\\u003c")),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def _shown(part: Part) -> dict[str, Any]:
    items = [{"id": item.id, "sheet": item.sheet, "options": [clean(text) for text in item.options]} for item in part.items]
    return {
        "kind": part.kind, "title": part.title, "instructions": part.instructions, "question": part.question, "asked": items,
        "best": part.best, "several": part.several,
    }  # fmt: skip


def _data(form: Form) -> dict[str, Any]:
    """What the script needs: which answers a whole form has."""
    parts = [
        {
            "kind": part.kind,
            "best": bool(part.best),
            "items": [{"id": item.id, "options": len(item.options)} for item in part.items],
        }
        for part in form.parts
    ]
    return {"form": form.id, "file": form.file, "rater": form.rater, "parts": parts}
