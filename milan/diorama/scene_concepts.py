"""Concepts: what a description can name, and how they are read from a text."""

import re
from dataclasses import dataclass
from functools import cache

from milan.diorama.formulas import FormulaLiteral, parse_formula
from milan.diorama.scene_vocabulary import ADJECTIVES, GROUP_WORDS, GROUPS, KINDS, SETTINGS, get_synonyms, pluralize

ALL_KINDS = {**KINDS, "setting": SETTINGS}
JOINING_WORDS = re.compile(r",|;|\band\b|\bor\b|\bas well as\b|&")
NUMBER_PATTERN = r"\d+(?:\.\d+)?(?:e-?\d+)? "
WEIGHT_PATTERN = re.compile(rf"(-?){NUMBER_PATTERN}\S")  # how a weighted sum begins
# Where in the picture something is, says nothing of what it is; nor is the top of a picture a table's.
POSITION_PATTERN = re.compile(
    r"\b(?:at|on|in|near|along|towards?) the (?:very )?"
    r"(?:top|bottom|left|right|middle|cent(?:er|re)|edges?|sides?|upper|lower|corners?|back|front)\b"
    r"(?: (?:half|part|side|edge|corner))?(?: of the (?:image|picture|scene|photo)s?)?"
)


@dataclass(frozen=True, order=True)
class Concept:
    """Something a pixel can show: one name of a kind, or one of several."""

    name: str
    members: tuple[tuple[str, str], ...]  # (kind, name)
    holds: bool = True  # False for what a formula says must not show

    @property
    def kind(self) -> str:
        return self.members[0][0]


@dataclass(frozen=True)
class ParsedConcepts:
    """What a text names: the pixels of any of its phrases, each the pixels that show one of every group of concepts in
    it.
    """

    phrases: tuple[tuple[tuple[Concept, ...], ...], ...]

    @property
    def concept_count(self) -> int:
        """How many different concepts are named."""
        return len({concept for phrase in self.phrases for group in phrase for concept in group})


@cache
def list_concepts() -> tuple[Concept, ...]:
    """Every concept, each once: the names of all kinds, and groups of them.

    A name that two kinds share, such as the wall of a house and of a room, is one concept.
    """
    members: dict[str, list[tuple[str, str]]] = {}
    for kind, names in ALL_KINDS.items():
        for name in names:
            members.setdefault(f"letter {name}" if kind == "text" else name, []).append((kind, name))
    found = {name: Concept(name, tuple(where)) for name, where in members.items()}
    found.update({name: Concept(name, where) for name, where in GROUPS.items()})
    return tuple(found[name] for name in sorted(found))


@cache
def get_concepts_by_name() -> dict[str, Concept]:
    return {concept.name: concept for concept in list_concepts()}


@cache
def build_lexicon() -> dict[tuple[str, ...], Concept]:
    """What each phrase, cut into words, stands for: names, synonyms, plurals and adjectives."""
    said: dict[tuple[str, ...], Concept] = {}
    for concept in list_concepts():
        for word in (*get_synonyms(concept.name), *GROUP_WORDS.get(concept.name, ())):
            for form in (word, pluralize(word)):
                said.setdefault(tuple(form.split()), concept)
    for name, adjective in ADJECTIVES.items():
        said.setdefault(tuple(adjective.split()), get_concepts_by_name()[name])
    for vague in (
        "top",
        "tops",
        "back",
        "backs",
    ):  # more often said of a picture's top and back than of a table's or a chair's
        del said[(vague,)]
    return said


def parse_concepts(text: str) -> ParsedConcepts:
    """Reads the concepts a text names.

    "and", "or" and commas join phrases, of which any may hold; within a phrase all must, but two names of one kind are
    alternatives. A text that is a formula (``milan.diorama.formulas``) is read as one, and a weighted sum ("0.62 dog +
    0.31 grass - 0.12 cat") as any of the parts that it adds.

    >>> [[[c.name for c in group] for group in phrase] for phrase in parse_concepts("Red and white stripes, or the roofs of houses").phrases]
    [[['red', 'white'], ['stripes']], [['roof'], ['house']]]
    """
    formula = _parse_as_formula(text.lower())
    if formula is not None:
        return formula
    clean = POSITION_PATTERN.sub(" ", _join_added_terms(text.lower()).replace("polka-dot", "dot"))
    found = [_find_concepts(part) for part in JOINING_WORDS.split(clean)]
    phrases: list[list[Concept]] = []
    waiting: list[Concept] = []
    for number, named in enumerate(found):
        follows = number + 1 < len(found) and any(concept.kind == "colour" for concept in found[number + 1])
        if named and follows and all(concept.kind == "colour" for concept in named):
            waiting += named  # "red and white stripes": colours of one thing
        elif named or waiting:
            phrases.append([*waiting, *named])
            waiting = []
    if waiting:
        phrases.append(waiting)
    return ParsedConcepts(tuple(_group_by_kind(phrase) for phrase in phrases))


def _join_added_terms(text: str) -> str:
    """What a weighted sum adds, joined by "or"; another text as it is."""
    first = WEIGHT_PATTERN.match(text)
    if not first:
        return text
    signs = [first[1] or "+", *re.findall(rf" ([+-]) (?={NUMBER_PATTERN})", text)]
    parts = re.split(rf" [+-] (?={NUMBER_PATTERN})", text)
    return " or ".join(
        re.sub(rf"^-?{NUMBER_PATTERN}", "", part) for sign, part in zip(signs, parts, strict=True) if sign == "+"
    )


def _parse_as_formula(text: str) -> ParsedConcepts | None:
    """The reading of a formula of which every name is a concept's."""
    found = parse_formula(text)
    if found is None:
        return None
    named = [[_find_literal_concept(literal) for literal in sorted(together)] for together in found]
    phrases = [tuple((concept,) for concept in phrase if concept) for phrase in named]
    return ParsedConcepts(tuple(phrases)) if all(all(phrase) for phrase in named) else None


def _find_literal_concept(literal: FormulaLiteral) -> Concept | None:
    holds, name = literal
    concept = get_concepts_by_name().get(name) or build_lexicon().get(tuple(name.split()))
    return concept if concept is None or holds else Concept(f"not {concept.name}", concept.members, holds=False)


def _find_concepts(text: str) -> list[Concept]:
    """The concepts in a phrase, longest names first at each word."""
    words, known = re.findall(r"[a-z]+(?:-[a-z]+)?", text), build_lexicon()
    found: list[Concept] = []
    place = 0
    while place < len(words):
        for length in (3, 2, 1):
            concept = known.get(tuple(words[place : place + length]))
            if concept is not None:
                found.append(concept)
                place += length - 1
                break
        place += 1
    return list(dict.fromkeys(found))


def _group_by_kind(named: list[Concept]) -> tuple[tuple[Concept, ...], ...]:
    kinds: dict[str, list[Concept]] = {}
    for concept in named:
        kinds.setdefault(concept.kind, []).append(concept)
    return tuple(tuple(group) for group in kinds.values())
