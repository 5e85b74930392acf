"""What a text that is made of label names denotes, among things whose labels are known."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from milan.units import split_weighted_sum

FindLabel = Callable[[str], Bool[np.ndarray, " things"] | None]


def evaluate_label_text(text: str, find: FindLabel, size: int) -> Float[np.ndarray, " things"]:
    """Return 1 where a text holds, else 0; of a weighted sum the sum of its parts.

    Names may be joined by "or", "and", "but not" and "neither ... nor", with brackets, as
    ``milan.describers.compositional`` writes them. Words that are no names hold nowhere.

    >>> things = ["car", "tree", "road"]
    >>> find = lambda name: np.array([name == each for each in things]) if name in things else None
    >>> [evaluate_label_text(text, find, 3).tolist() for text in ("neither car nor road", "2 car - 1 tree")]
    [[0.0, 1.0, 0.0], [2.0, -1.0, 0.0]]

    Args:
        find: returns where a name holds; None for other words.
        size: number of things.
    """
    values = np.zeros(size)
    for part, weight in split_weighted_sum(text):
        values += weight * _evaluate(part, find, size)
    return values


def split_alternatives(text: str) -> list[str]:
    """Return the parts that "or" joins outside brackets; a text with "but" is one part.

    >>> split_alternatives("red cars or boats"), split_alternatives("red and (car or boat)")
    (['red cars', 'boats'], ['red and (car or boat)'])
    """
    first, joined, others = _split(text, " or ")
    return [first, *split_alternatives(others)] if joined and " but " not in text else [text]


def _evaluate(text: str, find: FindLabel, size: int) -> Bool[np.ndarray, " things"]:
    found = find(text)
    if found is not None:
        return found
    held, but, barred = _split(text, " but ")
    if but:
        barred = barred.removeprefix("not ").removeprefix("neither ")
        return _evaluate(held, find, size) & ~_evaluate(barred, find, size)
    if text.startswith("neither "):
        return ~_evaluate(text.removeprefix("neither "), find, size)
    for word in (" nor ", " or ", " and "):
        first, joined, others = _split(text.removeprefix("both "), word)
        if joined:
            pair = _evaluate(first, find, size), _evaluate(others, find, size)
            return pair[0] & pair[1] if word == " and " else pair[0] | pair[1]
    if text.startswith("not "):
        return ~_evaluate(text.removeprefix("not "), find, size)
    if text.startswith("(") and text.endswith(")"):
        return _evaluate(text[1:-1], find, size)
    return np.zeros(size, dtype=bool)


def _split(text: str, word: str) -> tuple[str, str, str]:
    """Split a text at a word outside brackets, as ``str.partition`` does."""
    start = text.find(word)
    while start >= 0:
        if text.count("(", 0, start) == text.count(")", 0, start):
            return text[:start], word, text[start + len(word) :]
        start = text.find(word, start + 1)
    return text, "", ""
