"""Descriptions as rows of a table: plain values that are read back exactly as they were written."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput
from milan.storage.text_files import whole_number
from milan.units import Candidate, Description, Unit

# Digits of written floats. Differences beyond them come from the order of summation.
SIGNIFICANT_DIGITS = 6


def tidy_description(description: Description) -> Description:
    """Return the description as it is stored.

    Texts are on one line without control characters; floats have ``SIGNIFICANT_DIGITS`` digits.
    """
    return replace(
        description,
        text=to_one_line(description.text),
        score=_round_significant(description.score),
        bias=_round_significant(description.bias),
        concepts=tuple((to_one_line(name), _round_significant(weight)) for name, weight in description.concepts),
        candidates=tuple(
            Candidate(
                to_one_line(each.text),
                _round_significant(each.score),
                tuple((name, _round_significant(part)) for name, part in each.parts),
            )
            for each in description.candidates
        ),
    )


def description_to_row(description: Description) -> dict[str, Any]:
    """Return a description as plain values, which ``description_from_row`` reads back.

    Each candidate is one flat dict: ``text``, ``score`` and the parts of the score by name.
    """
    return {
        "layer": description.unit.layer,
        "unit": description.unit.index,
        "description": description.text,
        "score": _finite_or_none(description.score),
        "bias": _finite_or_none(description.bias),
        "concepts": [{"name": name, "weight": _finite_or_none(weight)} for name, weight in description.concepts],
        "candidates": [_candidate_to_row(candidate) for candidate in description.candidates],
    } | ({"reasoning": dict(description.reasoning)} if description.reasoning else {})


def description_from_row(row: Mapping[str, Any]) -> Description:
    """Return the description of ``description_to_row``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the row is not of that form.
    """
    if not isinstance(row["description"], str):
        raise TypeError(f"description {row['description']!r} is not a text")
    return Description(
        parse_unit(row),
        row["description"],
        _parse_float(row.get("score")),
        tuple((each["name"], _parse_float(each["weight"])) for each in row.get("concepts") or ()),
        _parse_float(row.get("bias") or 0.0),
        tuple(_candidate_from_row(each) for each in row.get("candidates") or ()),
        row.get("reasoning") or {},
    )


def parse_unit(row: Mapping[str, Any]) -> Unit:
    """Return the unit of a row's ``layer`` and ``unit``.

    Raises:
        ValueError: they are not the name of a layer and a whole number.
    """
    if not isinstance(row["layer"], str | int) or not str(row["layer"]).strip():
        raise ValueError(f"layer {row['layer']!r} is not the name of a layer")
    return Unit(str(row["layer"]), whole_number(row["unit"]))


def _candidate_to_row(candidate: Candidate) -> dict[str, Any]:
    for name, _ in candidate.parts:
        if name in ("text", "score"):
            raise BadInput(f"a part of a candidate's score is named {name!r}; choose another name")
    return {"text": candidate.text, "score": _finite_or_none(candidate.score)} | {
        name: _finite_or_none(value) for name, value in candidate.parts
    }


def _candidate_from_row(row: Mapping[str, Any]) -> Candidate:
    parts = tuple(
        (name, _parse_float(value))
        for name, value in row.items()
        if name not in ("text", "score") and value is not None
    )
    return Candidate(row["text"], _parse_float(row["score"]), parts)


def to_one_line(text: str) -> str:
    """Return a text on one line without control characters."""
    return " ".join(clean_text(text).split())


def _round_significant(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # + 0.0: no negative zero


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parse_float(value: Any) -> float:
    return math.nan if value is None else float(value)
