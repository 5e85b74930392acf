"""What people answered in a form, as the page saved it: read back, and what cannot be used told and left out."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milan.errors import BadInput, MilanWarning
from milan.results.page.form_page import FormItem, FormSection, RatingForm
from milan.storage.text_files import read_json_object


@dataclass(frozen=True)
class RaterAnswers:
    """What one person answered.

    Attributes:
        rater: by which people are told apart.
        answers: of each item what the form saved: ``text``, ``choice``, or ``ratings`` and ``best``.
        seconds: that the form was open for, where it is known.
    """

    rater: str
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float | None = None


def read_answers(files: Sequence[str | Path], *forms: RatingForm) -> list[RaterAnswers]:
    """The answers in files that a form's page saved, each person's put together; items that are not answered whole are
    left out, told.

    Of two answers of one person to one item the first counts.

    Raises:
        BadInput: a file is none of a form's answers, or those to another form.
    """
    items = {form.id: {item.id: (part, item) for part in form.parts for item in part.items} for form in forms}
    found: dict[str, RaterAnswers] = {}
    for file in map(Path, files):
        saved = _read_saved(file)
        if saved["form"] not in items:
            raise BadInput(
                f"{file} has answers to form {saved['form']}, but these units are in {', '.join(items)}; give the"
                " answers to that"
            )
        whole = _select_complete(file, saved, items[saved["form"]])
        rater = str(saved.get("rater") or file.stem)
        before = found.get(rater, RaterAnswers(rater))
        if twice := sorted(set(before.answers) & set(whole)):
            warnings.warn(
                f"{file}: {rater} answered {len(twice)} items twice ({twice[0]} ...); the first counts",
                MilanWarning,
                stacklevel=2,
            )
        seconds = None if saved.get("seconds") is None else (before.seconds or 0.0) + float(saved["seconds"])
        found[rater] = RaterAnswers(rater, {**whole, **before.answers}, seconds)
    return list(found.values())


def _read_saved(file: Path) -> dict[str, Any]:
    try:
        saved = read_json_object(file)
        if isinstance(saved["form"], str) and isinstance(saved["answers"], dict):
            return saved
    except (BadInput, KeyError) as error:
        raise BadInput(f"{file} is no file that a form saved: {type(error).__name__} {error}") from None
    raise BadInput(f"{file} is no file that a form saved: form or answers are of another kind")


def _select_complete(
    file: Path, saved: Mapping[str, Any], items: Mapping[str, tuple[FormSection, FormItem]]
) -> dict[str, Mapping[str, Any]]:
    """The items that are answered as the form asks, by their ids."""
    known = {id: given for id, given in saved["answers"].items() if id in items}
    good = {id: given for id, given in known.items() if is_complete(given, *items[id])}
    if missing := len(items) - len(good):
        text = f"{file}: {missing} of {len(items)} items have no whole answer and are left out"
        warnings.warn(text, MilanWarning, stacklevel=3)
    return good


def is_complete(answer: Any, part: FormSection, item: FormItem) -> bool:
    """Whether an answer has all that the item asks, and nothing out of range."""
    if not isinstance(answer, Mapping):
        return False
    options = range(len(item.options))
    if part.kind == "text":
        return isinstance(answer.get("text"), str) and bool(answer["text"].strip())
    if part.kind == "choice":
        return _is_number(answer.get("choice")) and answer["choice"] in options
    ratings, best = answer.get("ratings"), answer.get("best")
    rated = (
        isinstance(ratings, list)
        and len(ratings) == len(options)
        and all(_is_number(each) and 1 <= each <= 5 for each in ratings)
    )
    chosen = (
        isinstance(best, list)
        and all(_is_number(each) and each in options for each in best)
        and (bool(best) or not part.best)
    )
    return rated and chosen


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
