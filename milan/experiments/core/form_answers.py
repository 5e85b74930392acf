"""Reading the answers that people saved in a form; unusable ones are left out with a warning."""

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
    """One person's answers.

    Attributes:
        rater: the person's name.
        answers: by item: ``text``, ``choice``, or ``ratings`` and ``best``.
        seconds: the time for which the form was open, if it is known.
    """

    rater: str
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: float | None = None


def read_answers(files: Sequence[str | Path], *forms: RatingForm) -> list[RaterAnswers]:
    """Return the answers in files that a form's page saved, by person.

    Incomplete answers, and a person's second answer to an item, are left out with a warning.

    Raises:
        BadInput: a file is not one of a form's answers, or is of another form.
    """
    items = {form.id: {item.id: (part, item) for part in form.parts for item in part.items} for form in forms}
    found: dict[str, RaterAnswers] = {}
    for file in map(Path, files):
        saved = _read_saved(file)
        if saved["form"] not in items:
            raise BadInput(
                f"{file} has answers to form {saved['form']}, but the form of these units is {', '.join(items)}; give"
                " answers to it"
            )
        whole = _select_complete(file, saved, items[saved["form"]])
        rater = str(saved.get("rater") or file.stem)
        before = found.get(rater, RaterAnswers(rater))
        if twice := sorted(set(before.answers) & set(whole)):
            warnings.warn(
                f"{file}: {rater} answered {len(twice)} items twice ({twice[0]} ...); the first answers count",
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
        raise BadInput(f"{file} was not saved by a form: {type(error).__name__} {error}") from None
    raise BadInput(f"{file} was not saved by a form: form or answers have another type")


def _select_complete(
    file: Path, saved: Mapping[str, Any], items: Mapping[str, tuple[FormSection, FormItem]]
) -> dict[str, Mapping[str, Any]]:
    """Return the complete answers by item."""
    known = {id: given for id, given in saved["answers"].items() if id in items}
    good = {id: given for id, given in known.items() if is_complete(given, *items[id])}
    if missing := len(items) - len(good):
        text = f"{file}: {missing} of {len(items)} items have no complete answer and are left out"
        warnings.warn(text, MilanWarning, stacklevel=3)
    return good


def is_complete(answer: Any, part: FormSection, item: FormItem) -> bool:
    """Return whether an answer has all that the item asks for, and nothing out of range."""
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
