"""What a report's page shows of single units, as ``milan.results.page.report_page`` reads it."""

import math
from collections.abc import Sequence
from typing import Any

from milan.scores.truth_score import Truth
from milan.units import Unit


def make_unit_view(unit: Unit, group: str, truth: str, texts: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Return what the page shows of a unit.

    Args:
        group: by which the page can be filtered.
        truth: what is shown above the texts.
        texts: rows of ``make_text_view``.
    """
    return {"id": str(unit), "group": group, "truth": truth, "said": list(texts)}


def make_text_view(
    name: str, text: str, *, role: str = "", reason: str = "", mark: str = "", score: str = ""
) -> dict[str, str]:
    """Return a row of a unit: who says what, why there is no text, and how good the text is."""
    return {"name": name, "role": role, "text": text, "reason": reason, "mark": mark, "score": score}


def format_score(score: float) -> str:
    """Return a score with two digits, or a dash if it is not defined.

    >>> format_score(0.5), format_score(float("nan"))
    ('0.50', '–')
    """
    return "–" if math.isnan(score) else f"{score:.2f}"


def format_best_texts(truth: Truth | None, unit: Unit) -> str:
    """Return the best descriptions of a unit with one and with two concepts; empty if its truth is not known."""
    if truth is None or unit not in truth.units:
        return ""
    texts = dict.fromkeys(truth.find_best(unit, length).text for length in (1, 2))
    return "Best: " + " / ".join(texts)
