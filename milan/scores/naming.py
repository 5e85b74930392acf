"""Whether a description names exactly what a unit was made to detect: a yes or no, where the truth score has degrees.

What a text says is read by ``milan.diorama.concepts.read`` and put into its one shortest form: alternatives, each a set of concepts that
must hold together. "Red or blue stripes" is {red, stripes} or {blue, stripes}. Two texts say the same if these are the same, whatever
synonyms, plurals and order of words they use; words that stand for no concept say nothing.
"""

from itertools import product

from milan.diorama.concepts import Concept, read

Formula = frozenset[frozenset[str]]  # alternatives, each the names of concepts that hold together


def formula(text: str) -> Formula:
    """What a text says, in its shortest form; empty if it names no concept.

    >>> sorted(sorted(part) for part in formula("red and blue stripes, or striped scarlet things"))
    [['blue', 'stripes'], ['red', 'stripes']]
    """
    parts = {part for phrase in read(text).phrases for part in _alternatives(phrase)}
    return frozenset(part for part in parts if not any(other < part for other in parts))  # "a, or a and b" is a


def named_exactly(text: str, planted: str) -> bool:
    """Whether a text says what was planted: no concept more, none fewer, and joined in the same way.

    >>> [named_exactly(text, "red stripes") for text in ("crimson stripes", "stripes", "red things, stripes", "red striped cars")]
    [True, False, False, False]
    """
    said = formula(text)
    return bool(said) and said == formula(planted)


def named_parts(text: str, planted: str) -> float:
    """The share of what was planted, 0..1, that a text names as an alternative of its own, whatever else it says and excepts.

    >>> named_parts("wheels, or doors and roofs", "wheel or window"), named_parts("(wheel or window) but not room", "wheel or window")
    (0.5, 1.0)
    """
    known = formula(planted)
    named = {frozenset(name for name in part if not name.startswith("not ")) for part in formula(text)}
    return len(known & named) / len(known) if known else 0.0


def _alternatives(phrase: tuple[tuple[Concept, ...], ...]) -> set[frozenset[str]]:
    """Two concepts of one kind in a phrase are alternatives."""
    return {frozenset(concept.name for concept in chosen) for chosen in product(*phrase)}
