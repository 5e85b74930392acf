"""Whether a description names exactly what a unit was made to detect: a yes or no, where the truth score has degrees.

What a text says is read by ``milan.diorama.scene_concepts.parse_concepts`` and put into its one shortest form:
alternatives, each a set of concepts that must hold together. "Red or blue stripes" is {red, stripes} or {blue,
stripes}. Two texts say the same if these are the same, whatever synonyms, plurals and order of words they use; words
that stand for no concept say nothing.
"""

from itertools import product

from milan.diorama.scene_concepts import Concept, parse_concepts

ConceptFormula = frozenset[frozenset[str]]  # alternatives, each the names of concepts that hold together


def parse_concept_formula(text: str) -> ConceptFormula:
    """What a text says, in its shortest form; empty if it names no concept.

    >>> sorted(sorted(part) for part in parse_concept_formula("red and blue stripes, or striped scarlet things"))
    [['blue', 'stripes'], ['red', 'stripes']]
    """
    parts = {part for phrase in parse_concepts(text).phrases for part in _list_alternatives(phrase)}
    return frozenset(part for part in parts if not any(other < part for other in parts))  # "a, or a and b" is a


def is_named_exactly(text: str, planted: str) -> bool:
    """Whether a text says what was planted: no concept more, none fewer, and joined in the same way.

    >>> [is_named_exactly(text, "red stripes") for text in ("crimson stripes", "stripes", "red things, stripes", "red striped cars")]
    [True, False, False, False]
    """
    said = parse_concept_formula(text)
    return bool(said) and said == parse_concept_formula(planted)


def compute_named_share(text: str, planted: str) -> float:
    """The share of what was planted, 0..1, that a text names as an alternative of its own, whatever else it says and
    excepts.

    >>> compute_named_share("wheels, or doors and roofs", "wheel or window"), compute_named_share("(wheel or window) but not room", "wheel or window")
    (0.5, 1.0)
    """
    known = parse_concept_formula(planted)
    named = {frozenset(name for name in part if not name.startswith("not ")) for part in parse_concept_formula(text)}
    return len(known & named) / len(known) if known else 0.0


def _list_alternatives(phrase: tuple[tuple[Concept, ...], ...]) -> set[frozenset[str]]:
    """Two concepts of one kind in a phrase are alternatives."""
    return {frozenset(concept.name for concept in chosen) for chosen in product(*phrase)}
