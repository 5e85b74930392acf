"""Concepts: what a description can name, and how they are read from a text."""

import re
from dataclasses import dataclass
from functools import cache

from milan.diorama.formulas import Literal, alternatives
from milan.diorama.names import ADJECTIVES, GROUP_WORDS, GROUPS, KINDS, SETTINGS, plural, words_for

ALL_KINDS = {**KINDS, "setting": SETTINGS}
JOINS = re.compile(r",|;|\band\b|\bor\b|\bas well as\b|&")
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)? "
WEIGHT = re.compile(rf"(-?){NUMBER}\S")  # how a weighted sum begins
# Where in the picture something is, says nothing of what it is; nor is the top of a picture a table's.
POSITIONS = re.compile(
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
class Reading:
    """What a text names: the pixels of any of its phrases, each the pixels that show one of every group of concepts in it."""

    phrases: tuple[tuple[tuple[Concept, ...], ...], ...]

    @property
    def length(self) -> int:
        """How many different concepts are named."""
        return len({concept for phrase in self.phrases for group in phrase for concept in group})


@cache
def concepts() -> tuple[Concept, ...]:
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
def by_name() -> dict[str, Concept]:
    return {concept.name: concept for concept in concepts()}


@cache
def lexicon() -> dict[tuple[str, ...], Concept]:
    """What each phrase, cut into words, stands for: names, synonyms, plurals and adjectives."""
    said: dict[tuple[str, ...], Concept] = {}
    for concept in concepts():
        for word in (*words_for(concept.name), *GROUP_WORDS.get(concept.name, ())):
            for form in (word, plural(word)):
                said.setdefault(tuple(form.split()), concept)
    for name, adjective in ADJECTIVES.items():
        said.setdefault(tuple(adjective.split()), by_name()[name])
    for vague in ("top", "tops", "back", "backs"):  # more often said of a picture's top and back than of a table's or a chair's
        del said[(vague,)]
    return said


def read(text: str) -> Reading:
    """Reads the concepts a text names.

    "and", "or" and commas join phrases, of which any may hold; within a phrase all must, but two names of one kind are alternatives.
    A text that is a formula (``milan.diorama.formulas``) is read as one, and a weighted sum ("0.62 dog + 0.31 grass - 0.12 cat") as any of
    the parts that it adds.

    >>> [[[c.name for c in group] for group in phrase] for phrase in read("Red and white stripes, or the roofs of houses").phrases]
    [[['red', 'white'], ['stripes']], [['roof'], ['house']]]
    """
    formula = _formula(text.lower())
    if formula is not None:
        return formula
    clean = POSITIONS.sub(" ", _added(text.lower()).replace("polka-dot", "dot"))
    found = [_named(part) for part in JOINS.split(clean)]
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
    return Reading(tuple(_grouped(phrase) for phrase in phrases))


def _added(text: str) -> str:
    """What a weighted sum adds, joined by "or"; another text as it is."""
    first = WEIGHT.match(text)
    if not first:
        return text
    signs = [first[1] or "+", *re.findall(rf" ([+-]) (?={NUMBER})", text)]
    parts = re.split(rf" [+-] (?={NUMBER})", text)
    return " or ".join(re.sub(rf"^-?{NUMBER}", "", part) for sign, part in zip(signs, parts, strict=True) if sign == "+")


def _formula(text: str) -> Reading | None:
    """The reading of a formula of which every name is a concept's."""
    found = alternatives(text)
    if found is None:
        return None
    named = [[_literal(literal) for literal in sorted(together)] for together in found]
    phrases = [tuple((concept,) for concept in phrase if concept) for phrase in named]
    return Reading(tuple(phrases)) if all(all(phrase) for phrase in named) else None


def _literal(literal: Literal) -> Concept | None:
    holds, name = literal
    concept = by_name().get(name) or lexicon().get(tuple(name.split()))
    return concept if concept is None or holds else Concept(f"not {concept.name}", concept.members, holds=False)


def _named(text: str) -> list[Concept]:
    """The concepts in a phrase, longest names first at each word."""
    words, known = re.findall(r"[a-z]+(?:-[a-z]+)?", text), lexicon()
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


def _grouped(named: list[Concept]) -> tuple[tuple[Concept, ...], ...]:
    kinds: dict[str, list[Concept]] = {}
    for concept in named:
        kinds.setdefault(concept.kind, []).append(concept)
    return tuple(tuple(group) for group in kinds.values())
