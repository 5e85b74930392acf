"""Concepts: what a description can name, and the words that stand for them."""

from dataclasses import dataclass
from functools import cache

from milan.diorama.scene_vocabulary import (
    ADJECTIVES,
    GROUP_WORDS,
    GROUPS,
    KINDS,
    READ_SYNONYMS,
    SETTINGS,
    get_synonyms,
    pluralize,
    singularize,
)

ALL_KINDS = {**KINDS, "setting": SETTINGS}
# A text that says "top" or "back" more often means that of the picture than that of a table or a chair.
VAGUE_WORDS = ("top", "back")


@dataclass(frozen=True, order=True)
class Concept:
    """Something that a pixel can show.

    members: the labels of which the pixel has one, as (kind, name).
    """

    name: str
    members: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """The kind of the concept's first member, such as colour or object."""
        return self.members[0][0]


@cache
def list_concepts() -> tuple[Concept, ...]:
    """Return all concepts in the order of their names: the labels of all kinds, and groups of them.

    A name that two kinds share, such as the wall of a house and of a room, is one concept.
    """
    members: dict[str, list[tuple[str, str]]] = {}
    for kind, names in ALL_KINDS.items():
        for name in names:
            members.setdefault(f"letter {name}" if kind == "text" else name, []).append((kind, name))
    concepts = {name: Concept(name, tuple(where)) for name, where in members.items()}
    concepts.update({name: Concept(name, where) for name, where in GROUPS.items()})
    return tuple(concepts[name] for name in sorted(concepts))


@cache
def get_concepts_by_name() -> dict[str, Concept]:
    """Return all concepts by name; the result is cached and must not be changed."""
    return {concept.name: concept for concept in list_concepts()}


@cache
def build_lexicon() -> dict[tuple[str, ...], Concept]:
    """Return the concept of each phrase that has one: names, synonyms and adjectives, each word in the singular."""
    lexicon: dict[tuple[str, ...], Concept] = {}
    for concept in list_concepts():
        words = (*get_synonyms(concept.name), *GROUP_WORDS.get(concept.name, ()), *READ_SYNONYMS.get(concept.name, ()))
        for word in words:
            lexicon.setdefault(normalize_words(word), concept)
    for name, adjective in ADJECTIVES.items():
        lexicon.setdefault(normalize_words(adjective), get_concepts_by_name()[name])
    for word in VAGUE_WORDS:
        del lexicon[(word,)]
    return lexicon


@cache
def list_written_phrases() -> tuple[str, ...]:
    """Return the phrases that generated texts contain: names and synonyms, in singular and plural, and adjectives."""
    phrases = [
        form
        for concept in list_concepts()
        for word in (*get_synonyms(concept.name), *GROUP_WORDS.get(concept.name, ()))
        for form in (word, pluralize(word))
    ]
    vague = {form for word in VAGUE_WORDS for form in (word, pluralize(word))}
    return tuple(phrase for phrase in dict.fromkeys([*phrases, *ADJECTIVES.values()]) if phrase not in vague)


def normalize_words(phrase: str) -> tuple[str, ...]:
    """Return a phrase's words in the singular.

    >>> normalize_words("polka-dots"), normalize_words("people")
    (('polka', 'dot'), ('person',))
    """
    return tuple(singularize(word) for word in phrase.replace("-", " ").split())


def get_readable_name(concept: Concept) -> str:
    """Return the first of a concept's names that the lexicon knows.

    >>> get_readable_name(get_concepts_by_name()["top"]), get_readable_name(get_concepts_by_name()["cat"])
    ('table top', 'cat')
    """
    names = get_synonyms(concept.name)
    return next((name for name in names if build_lexicon().get(normalize_words(name)) == concept), concept.name)
