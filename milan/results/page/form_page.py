"""A form for raters, as one page that opens from the file system and saves the answers as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from milan.console.text_cleaning import clean_text
from milan.results.page.document import render_document
from milan.results.page.exemplar_views import PICTURES_PER_ROW, ExemplarView
from milan.storage.files import atomic_write
from milan.storage.provenance import Sources, simulated_note

RATING_LEVELS = ("Strongly disagree", "Disagree", "Neither agree nor disagree", "Agree", "Strongly agree")
FormKind = Literal["text", "rating", "choice"]


@dataclass(frozen=True)
class FormItem:
    """One unit in a form.

    Attributes:
        id: identifies its answers; it does not reveal the describer.
        pictures: its exemplars; None if there are no images of it.
        options: the texts to rate or choose from, in the order shown.
    """

    id: str
    pictures: ExemplarView | None
    options: Sequence[str] = ()


@dataclass(frozen=True)
class FormSection:
    """Items with the same question.

    Attributes:
        kind: text (write a sentence), rating (rate each option from 1 to 5 and choose the best), choice (choose one
            option).
        question: the question about each item.
        best: the second question of a rating, which option is best; empty for none.
        several: whether several options may be chosen as best.
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
    """A page of one or more sections.

    Attributes:
        id: identifies the form; answers to other forms are refused.
        file: file name of the saved answers.
        rater: whether the form asks for a name or number that identifies the rater.
        across: pictures in each row.
    """

    id: str
    title: str
    lede: str
    parts: Sequence[FormSection]
    file: str = "answers.json"
    rater: bool = True
    notes: Sequence[str] = field(default_factory=tuple)
    across: int = PICTURES_PER_ROW


def write_form(form: RatingForm, file: Path, sources: Sources, images: Mapping[str, str] | None = None) -> Path:
    """Write the form and return its path.

    Args:
        form: the form.
        file: the HTML file to write.
        sources: what the units come from, by role, without names of describers.
        images: the images as data URLs, by their paths (see ``inline_images``), which are then within the file; without
            them they are expected beside it.
    """
    page = render_document(
        "form.html.j2",
        styles=["page.css", "form.css"],
        scripts=["pictures.js", "form.js"],
        data={"data": _make_script_data(form), "images": _select_images(form, images or {})},
        form=form,
        parts=[_make_section_view(part) for part in form.parts],
        simulated=clean_text(simulated_note(sources)),
        levels=list(enumerate(RATING_LEVELS, 1)),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as partial:
        partial.write_text(page, encoding="utf-8")
    return file


def _select_images(form: RatingForm, images: Mapping[str, str]) -> dict[str, str]:
    views = [item.pictures for part in form.parts for item in part.items if item.pictures is not None]
    return {file: images[file] for view in views for file in view.files if file in images}


def _make_section_view(part: FormSection) -> dict[str, Any]:
    items = [
        {"id": item.id, "pictures": item.pictures, "options": [clean_text(text) for text in item.options]}
        for item in part.items
    ]
    return {
        "kind": part.kind, "title": part.title, "instructions": part.instructions, "question": part.question,
        "items": items,
        "best": part.best, "several": part.several,
    }  # fmt: skip


def _make_script_data(form: RatingForm) -> dict[str, Any]:
    """Return what the script needs to know: the pictures, and the answers that a complete form has."""
    parts = [
        {
            "kind": part.kind,
            "best": bool(part.best),
            "items": [{"id": item.id, "options": len(item.options)} for item in part.items],
        }
        for part in form.parts
    ]
    pictures = {
        item.id: [item.pictures.to_plain()] for part in form.parts for item in part.items if item.pictures is not None
    }
    return {
        "form": form.id,
        "file": form.file,
        "rater": form.rater,
        "parts": parts,
        "across": form.across,
        "pictures": pictures,
    }
