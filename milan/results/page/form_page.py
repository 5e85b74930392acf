"""A form that people fill in, as one page that opens from the file system: what they answer stays in it until they save
it as a file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from milan.console.command_line import clean_text
from milan.results.page.contact_sheets import PICTURES_PER_ROW, ContactSheet
from milan.results.page.document import render_document
from milan.storage.files import atomic_write
from milan.storage.provenance import Sources, simulated_note

RATING_LEVELS = ("Strongly disagree", "Disagree", "Neither agree nor disagree", "Agree", "Strongly agree")
FormKind = Literal["text", "rating", "choice"]


@dataclass(frozen=True)
class FormItem:
    """One unit in a form.

    Attributes:
        id: by which its answers are found again; says nothing of who described the unit.
        sheet: its exemplars, a picture beside the form.
        options: the texts to be rated or chosen from, in the order in which they are shown.
    """

    id: str
    sheet: ContactSheet | None
    options: Sequence[str] = ()


@dataclass(frozen=True)
class FormSection:
    """Items that are asked the same.

    Attributes:
        kind: text (a sentence is written), rating (each option from 1 to 5, and which is best), choice (one of the
            options).
        question: what is asked of each.
        best: the second question of a rating; empty if it is not asked.
        several: whether more than one may be called best, where they tie.
    """

    kind: FormKind
    title: str
    instructions: Sequence[str]
    question: str
    items: Sequence[FormItem]
    best: str = ""
    several: bool = True


@dataclass(frozen=True)
class RatingForm:
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
    parts: Sequence[FormSection]
    file: str = "answers.json"
    rater: bool = True
    notes: Sequence[str] = field(default_factory=tuple)
    across: int = PICTURES_PER_ROW


def write_form(form: RatingForm, file: Path, sources: Sources) -> Path:
    """Writes the page; pictures are looked for beside it.

    Args:
        sources: what the units shown are from, by role and without the names of describers.
    """
    page = render_document(
        "form.html.j2",
        styles=["page.css", "form.css"],
        scripts=["form.js"],
        form=form,
        parts=[_make_section_view(part) for part in form.parts],
        simulated=clean_text(simulated_note(sources)),
        levels=list(enumerate(RATING_LEVELS, 1)),
        across=form.across,
        data=Markup(json.dumps(_make_script_data(form), ensure_ascii=False).replace("<", "\\u003c")),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def _make_section_view(part: FormSection) -> dict[str, Any]:
    items = [
        {"id": item.id, "sheet": item.sheet, "options": [clean_text(text) for text in item.options]}
        for item in part.items
    ]
    return {
        "kind": part.kind, "title": part.title, "instructions": part.instructions, "question": part.question,
        "asked": items,
        "best": part.best, "several": part.several,
    }  # fmt: skip


def _make_script_data(form: RatingForm) -> dict[str, Any]:
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
