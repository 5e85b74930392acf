"""Formulas of concepts: what a description denotes, as a tree of "all of", "any of" and "not" over concepts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from milan.diorama.scene_concepts import Concept, get_readable_name


@dataclass(frozen=True)
class AllOf:
    """Pixels that every part denotes; all pixels if it has no parts."""

    parts: "tuple[Formula, ...]"


@dataclass(frozen=True)
class AnyOf:
    """Pixels that at least one part denotes; no pixel if it has no parts."""

    parts: "tuple[Formula, ...]"


@dataclass(frozen=True)
class Not:
    """Pixels that its part does not denote."""

    part: "Formula"


Formula = Concept | AllOf | AnyOf | Not
EVERYTHING, NOTHING = AllOf(()), AnyOf(())


def join_formulas(join: type[AllOf | AnyOf], *parts: Formula) -> Formula:
    """Join formulas; parts that are joined in the same way are taken apart, and one part stays as it is."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, join) else (part,))]
    return flat[0] if len(flat) == 1 else join(tuple(flat))


def evaluate_formula(formula: Formula, find_mask: Callable[[Concept], np.ndarray], size: int) -> np.ndarray:
    """Return the mask of what a formula denotes, bool (size,).

    Args:
        find_mask: returns a concept's mask, bool (size,).
        size: length of the masks.
    """
    if isinstance(formula, Concept):
        return find_mask(formula)
    if isinstance(formula, Not):
        return ~evaluate_formula(formula.part, find_mask, size)
    join = np.logical_and if isinstance(formula, AllOf) else np.logical_or
    values = np.full(size, isinstance(formula, AllOf))
    for part in formula.parts:
        values = join(values, evaluate_formula(part, find_mask, size))
    return values


def iter_concepts(formula: Formula) -> Iterator[Concept]:
    """Yield the concepts in a formula, from left to right, with repetitions."""
    if isinstance(formula, Concept):
        yield formula
        return
    for part in (formula.part,) if isinstance(formula, Not) else formula.parts:
        yield from iter_concepts(part)


def format_formula(formula: Formula) -> str:
    """Return a formula in words that ``milan.diorama.text_reader`` reads back as the same pixels.

    >>> from milan.diorama.scene_concepts import get_concepts_by_name
    >>> red, car, boat = (get_concepts_by_name()[name] for name in ("red", "car", "boat"))
    >>> format_formula(AllOf((red, AnyOf((car, boat))))), format_formula(AllOf((car, Not(red))))
    ('red and (car or boat)', 'car but not red')
    >>> format_formula(AllOf((red, car))), format_formula(AllOf((AllOf((red, car)), Not(boat))))
    ('both red and car', '(both red and car) but not boat')
    """
    if isinstance(formula, Concept):
        return get_readable_name(formula)
    if isinstance(formula, Not):
        return f"not {_format_part(formula.part)}"
    if isinstance(formula, AnyOf):
        return " or ".join(_format_part(part) for part in formula.parts) or "nothing"
    holding = [_format_part(part) for part in formula.parts if not isinstance(part, Not)]
    barred = [_format_part(part.part) for part in formula.parts if isinstance(part, Not)]
    both = "both " if len(holding) > 1 and not any("(" in words for words in holding) else ""
    held = both + " and ".join(holding) if holding else "everything"
    return f"{held} but not {' or '.join(barred)}" if barred else held


def _format_part(part: Formula) -> str:
    words = format_formula(part)
    return words if isinstance(part, Concept) else f"({words})"
