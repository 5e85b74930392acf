"""Texts with integers from 0 to 10: captions with a unit's activations, or names of classes with its weights.

What language models are shown of a unit (*Tell me what you see*, sections 3.1.1 and 3.2.2), and what they are asked to
predict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from milan.errors import BadInput
from milan.pretrained.llm import Question, Task
from milan.pretrained.prompts import Prompt, Shot, sanitize_item
from milan.storage.tables import read_csv
from milan.units import Unit

MAX_VALUE = 10
Signs = Literal["positive", "negative", "both"]
SHOWN, CHOOSING, JUDGING = 0, 1, 2


@dataclass(frozen=True)
class PredictionPairs:
    """Texts with integers; a text is only generated when it is requested.

    values: one integer for each text, 0..10, or -10..10; load_texts: the texts of some places; kind: what the prompts
        are called;
    use_strongest, strong_share: of an example of simulation, whether its strong pairs are the strongest or drawn by
        lot, and their share (appendix B).
    """

    values: Int[np.ndarray, " n"]
    load_texts: Callable[[Sequence[int]], list[str]]
    kind: str
    use_strongest: bool = False
    strong_share: float = 0.75

    def select_strongest(self, count: int, places: Bool[np.ndarray, " n"] | None = None) -> list[int]:
        """Return the places of the strongest nonzero pairs, weakest first; with both signs, half of each."""
        allowed = np.ones(len(self.values), bool) if places is None else places
        above = self._side(1, allowed)
        below = self._side(-1, allowed)
        half = count // 2 if len(below) else 0
        kept = [*below[:half], *above[: count - min(half, len(below))]]
        return sorted(kept, key=lambda place: (self.values[place], -place))

    def _side(self, sign: int, allowed: Bool[np.ndarray, " n"]) -> list[int]:
        found = [place for place in range(len(self.values)) if allowed[place] and sign * self.values[place] > 0]
        return sorted(found, key=lambda place: (-abs(int(self.values[place])), place))

    def make_items(self, places: Sequence[int]) -> list[tuple[str, int]]:
        """Return texts, cleaned for a prompt, with their integers."""
        return [
            (sanitize_item(text), int(self.values[place]))
            for text, place in zip(self.load_texts(list(places)), places, strict=True)
        ]

    def select_mixed(self, count: int, rng: np.random.Generator) -> list[int]:
        """Return places for an example of simulation: strong pairs and zeros in random order."""
        strong = np.flatnonzero(self.values)
        zero = rng.permutation(np.flatnonzero(self.values == 0))
        by_size = strong[np.argsort(-np.abs(self.values[strong]), kind="stable")]
        strong = by_size if self.use_strongest else rng.permutation(strong)
        wanted = round(self.strong_share * count)
        return rng.permutation(np.concatenate([strong[:wanted], zero[: count - wanted]])).tolist()


def scale_to_integers(values: Float[np.ndarray, " n"], signs: Signs = "positive") -> Int[np.ndarray, " n"]:
    """Scale values to integers 0..10, negative values to 0; with both signs, each side by its own largest value,
    -10..10.

    What is no number (an image that could not be read) is 0.

    >>> scale_to_integers(np.array([-4.0, 0.0, 1.0, 2.0])).tolist()
    [0, 0, 5, 10]
    >>> scale_to_integers(np.array([-4.0, -2.0, 1.0, 2.0]), "both").tolist()
    [-10, -5, 5, 10]
    >>> scale_to_integers(np.array([-4.0, -1.0, 3.0]), "negative").tolist()
    [10, 3, 0]
    """
    known = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    towards, away = (_scale_to_ten(sign * known) for sign in (1, -1))
    return {"positive": towards, "negative": away, "both": towards - away}[signs]


def _scale_to_ten(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    most = values.max(initial=0.0)
    return (
        np.floor(MAX_VALUE * values.clip(0) / most + 0.5).astype(np.int64)
        if most > 0
        else np.zeros(len(values), np.int64)
    )


def divide_pairs(count: int, share: float, seed: int = 0) -> Int[np.ndarray, " count"]:
    """Assign pairs to the explainer (0), to the choice among explanations (1) or to the evaluation (2).

    Args:
        share: of the pairs that may be shown; one half of the others is for choosing, the other for judging.

    >>> np.bincount(divide_pairs(40, 0.5)).tolist(), np.bincount(divide_pairs(40, 1.0)).tolist()
    ([20, 10, 10], [40])

    Raises:
        BadInput: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise BadInput(f"a share of {share} of the pairs; give one above 0 and at most 1")
    shown = round(share * count)
    chosen = shown + (count - shown + 1) // 2
    order = np.random.default_rng([seed, count]).permutation(count)
    found = np.full(count, JUDGING)
    found[order[:chosen]] = CHOOSING
    found[order[:shown]] = SHOWN
    return found


def format_items(items: Sequence[tuple[str, int]], shown_values: Sequence[int] | None = None) -> list[str]:
    """Return items as lines of a prompt: text, tab, integer.

    >>> format_items([("a cat", 3)]), format_items([("a cat", 3)], shown_values=[7])
    (['a cat\\t3'], ['a cat\\t7'])
    """
    values = [value for _, value in items] if shown_values is None else shown_values
    return [f"{text}\t{value}" for (text, _), value in zip(items, values, strict=True)]


def format_unknown_items(items: Sequence[tuple[str, int]]) -> list[str]:
    """Return items as lines whose integers are to be predicted."""
    return [f"{text}\tunknown" for text, _ in items]


@dataclass(frozen=True)
class DescribedUnit:
    """A unit that a person described."""

    unit: Unit
    text: str


def read_examples(file: str) -> list[DescribedUnit]:
    """Read units described by hand from a csv with the columns layer, unit and description.

    Raises:
        BadInput: there is no such file, or it lacks a column.
    """
    if not file:
        return []
    rows = read_csv(Path(file).expanduser(), "layer", "unit", "description")
    found = [DescribedUnit(Unit(row["layer"], row["unit"]), sanitize_item(row["description"])) for row in rows]
    if empty := [str(each.unit) for each in found if not each.text]:
        raise BadInput(f"{file} describes {empty[0]} with an empty text")
    return found


def make_explanation_question(
    prompt: Prompt, unit: Unit, items: Sequence[tuple[str, int]], shots: Sequence[Shot], sample_index: int = 0
) -> Question:
    """Return the prompt that asks what a unit detects."""
    return _make_question(prompt, "explain", unit, items, format_items(items), shots, "", sample_index)


def make_simulation_question(
    prompt: Prompt,
    unit: Unit,
    explanation: str,
    items: Sequence[tuple[str, int]],
    shots: Sequence[Shot],
    sample_index: int = 0,
) -> Question:
    """Return the prompt that asks for the integers of items, given an explanation."""
    hidden = [(text, 0) for text, _ in items]
    return _make_question(
        prompt, "simulate", unit, hidden, format_unknown_items(items), shots, explanation, sample_index
    )


def _make_question(
    prompt: Prompt,
    task: Task,
    unit: Unit,
    items: Sequence[tuple[str, int]],
    shown: Sequence[str],
    shots: Sequence[Shot],
    explanation: str,
    sample_index: int,
) -> Question:
    messages = prompt.messages(shown, unit=str(unit.index), explanation=explanation, shots=shots)
    return Question(messages, task, tuple(items), explanation, sample_index)
