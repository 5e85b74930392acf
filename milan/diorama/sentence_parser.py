"""Parses sentences about a scene: things with their looks, their relations, and the setting.

``milan.diorama.text_reader`` returns which pixels a description denotes; this module returns what a sentence says there
is, which a painter or a judge needs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from milan.diorama.scene_concepts import Concept, build_lexicon, normalize_words
from milan.diorama.scene_vocabulary import OBJECTS, SIGN_WORDS
from milan.diorama.sentences import RELATION_PHRASES
from milan.diorama.things import THINGS_BY_NAME

ANY_WORD = "?"  # writing whose letters the text does not state
OPENING_PATTERN = re.compile(
    r"^(?:there (?:is|are) )?(?:(?:an? |the )?(?:picture|photo|photograph|image|view|close-up|drawing)s? of (?:an? |the"
    r" )?)?(?:an? |the )?"
)
WITHIN, WITH, OF, AND = "within", "with", "of", "and"
LINKS = {"in": WITHIN, "at": WITHIN, "with": WITH, "that says": WITH, "which says": WITH, "saying": WITH, "of": OF,
    "and": AND, "or": AND,
         ",": AND, ";": AND, "&": AND, "|": AND}  # fmt: skip
BESIDE = "beside"  # to the left or to the right
RELATION_WORDS = {
    word: BESIDE if word in ("beside", "next to") else name
    for name, words in RELATION_PHRASES.items()
    for word in words
}
WRITING_WORDS = {"letter", "letters", "word", "words", "says", "saying"}  # the next word is what is written


@dataclass(frozen=True)
class ParsedThing:
    """A thing that a text names.

    names: what it may be, of OBJECTS; nothing where the text tells only how it looks. colours: one, or that of a
        pattern second;
    patterns: any of these; part: a part of it that is spoken of, with colours and patterns of its own; word: what is
        written on it.
    """

    names: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    part: str = ""
    part_colours: tuple[str, ...] = ()
    part_patterns: tuple[str, ...] = ()
    word: str = ""


@dataclass(frozen=True)
class ParsedSentence:
    """What a text says. relations: (place of the subject among ``things``, name, place of the other); settings: any of
    these.
    """

    things: tuple[ParsedThing, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    settings: tuple[str, ...] = ()


Token = tuple[
    str, object
]  # "concept", a Concept; "relation", its name; "link", one of those above; "word", what is written


def parse_sentence(text: str) -> ParsedSentence:
    """Parse a text; words without meaning in Diorama are skipped.

    >>> said = parse_sentence("there is a red and white dotted house with a blue door beside a cat at the shore")
    >>> house = said.things[0]
    >>> house.names, house.colours, house.patterns, house.part, house.part_colours
    (('house',), ('red', 'white'), ('dots',), 'door', ('blue',))
    >>> said.things[1].names, said.relations, said.settings
    (('cat',), ((0, 'beside', 1),), ('beach',))
    """
    reader = _SentenceReader()
    for kind, value in tokenize_sentence(text):
        reader.consume(kind, value)
    return reader.finish()


def tokenize_sentence(text: str) -> Iterator[Token]:
    """Yield the concepts, relations and joining words of a text, the longest first at each place."""
    clean = OPENING_PATTERN.sub("", text.lower().strip().replace("polka-dot", "dot").replace(" on it", ""), count=1)
    words = re.findall(r"[a-z]+(?:-[a-z]+)?|[,;&|?]", clean)
    place = 0
    while place < len(words):
        if (
            place
            and words[place - 1] in WRITING_WORDS
            and (words[place] in SIGN_WORDS or (len(words[place]) == 1 and words[place] not in ",;&|"))
        ):
            yield "word", words[place]
            place += 1
            continue
        for length in (4, 3, 2, 1):
            phrase = normalize_words(" ".join(words[place : place + length]))
            entry = _list_phrases().get(phrase) if place + length <= len(words) else None
            if entry is not None:
                yield entry
                place += length - 1
                break
        place += 1


@cache
def _list_phrases() -> dict[tuple[str, ...], Token]:
    """Return the token of each phrase."""
    known: dict[tuple[str, ...], Token] = {words: ("concept", concept) for words, concept in build_lexicon().items()}
    known.update({normalize_words(word): ("relation", name) for word, name in RELATION_WORDS.items()})
    known.update({normalize_words(word): ("link", link) for word, link in LINKS.items()})
    return known


@dataclass
class _SentenceReader:
    """Consumes the tokens of a text one by one."""

    things: list[ParsedThing] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    settings: tuple[str, ...] = ()
    colours: list[str] = field(default_factory=list)  # of the next noun
    patterns: tuple[str, ...] = ()
    relation: str = ""  # to the next thing
    subject: int = -1  # of that relation: the thing last spoken of that is no part of a relation yet
    link: str = ""  # what joins the next thing to the last one
    pending_part: ParsedThing | None = None  # a part or a writing whose owner comes after it
    last_was_thing: bool = False  # whether the thing last spoken of was the last token

    def consume(self, kind: str, value: object) -> None:
        fresh, self.last_was_thing = self.last_was_thing, False
        if kind == "relation":
            self._attach_pending_looks()
            self.relation, self.link, self.subject = str(value), "", len(self.things) - 1
        elif kind == "link" and not (value == AND and self.colours and not self.patterns):
            if value != OF:
                self._attach_pending_looks()
                self._release_pending_part()
            self.link = str(value)
        elif kind == "word":
            self._add_writing(str(value))
        elif isinstance(value, Concept):
            self._add_concept(value, fresh)

    def _add_concept(self, concept: Concept, last_was_thing: bool) -> None:
        names = tuple(name for _, name in concept.members)
        kinds = {kind for kind, _ in concept.members}
        if "colour" in kinds:
            self.colours.append(names[0])
        elif "pattern" in kinds:
            self.patterns = names
        elif "setting" in kinds:
            self._attach_pending_looks()
            self.settings, self.relation = names, ""
        elif "text" in kinds:
            self._add_writing(ANY_WORD if len(names) > 1 else names[0])
        elif "part" in kinds and (self._last_thing_has(names[-1]) or last_was_thing or "object" not in kinds):
            self._add_part(names[-1], last_was_thing)
        else:
            self._add_thing(
                ParsedThing(tuple(name for kind, name in concept.members if kind == "object"), *self._pop_adjectives())
            )

    def _add_thing(self, named: ParsedThing) -> None:
        if self.pending_part is not None and self.link in (OF, "") and (self.link == OF or self.relation == "on"):
            loose, self.pending_part, self.relation = self.pending_part, None, ""
            named = replace(loose, names=named.names, colours=named.colours, patterns=named.patterns)
        else:
            self._release_pending_part()
        self.things.append(named)
        if self.relation and self.subject >= 0:
            self.relations.append((self.subject, self.relation, len(self.things) - 1))
        self.relation, self.link, self.last_was_thing = "", "", True

    def _last_thing_has(self, part: str) -> bool:
        """Whether the last thing can have this part, after "with"."""
        return self.link == WITH and bool(self.things) and bool(set(self.things[-1].names) & find_owners(part))

    def _add_part(self, part: str, last_was_thing: bool) -> None:
        colours, patterns = self._pop_adjectives()
        if self.things and (last_was_thing or self._last_thing_has(part)):
            self.things[-1] = replace(self.things[-1], part=part, part_colours=colours, part_patterns=patterns)
        else:
            self._release_pending_part()
            self.pending_part = ParsedThing(part=part, part_colours=colours, part_patterns=patterns)
        self.link = ""

    def _add_writing(self, word: str) -> None:
        if self.link == WITH and self.things:
            self.things[-1] = replace(self.things[-1], word=word)
        elif word != ANY_WORD and self.pending_part is not None:
            self.pending_part = replace(self.pending_part, word=word)
        elif word != ANY_WORD and self.things and self.things[-1].word == ANY_WORD:
            self.things[-1] = replace(self.things[-1], word=word)
        else:
            self._release_pending_part()
            colours, patterns = self._pop_adjectives()
            self.pending_part = ParsedThing(("sign",), colours, patterns, word=word)

    def _pop_adjectives(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        adjectives = tuple(dict.fromkeys(self.colours)), self.patterns
        self.colours, self.patterns = [], ()
        return adjectives

    def _attach_pending_looks(self) -> None:
        """Attach looks without a noun to a new thing or, after "with", to the last one."""
        if not self.colours and not self.patterns:
            return
        colours, patterns = self._pop_adjectives()
        if self.link == WITH and self.things and patterns:
            last = self.things[-1]
            self.things[-1] = replace(last, patterns=patterns, colours=tuple(dict.fromkeys(last.colours + colours)))
        else:
            self._add_thing(ParsedThing((), colours, patterns))

    def _release_pending_part(self) -> None:
        """Assign a part without owner to any thing that has one."""
        if self.pending_part is not None:
            loose, self.pending_part = self.pending_part, None
            names = loose.names or tuple(name for name in OBJECTS if name in find_owners(loose.part))
            self.things.append(replace(loose, names=names))

    def finish(self) -> ParsedSentence:
        self._attach_pending_looks()
        self._release_pending_part()
        return ParsedSentence(tuple(self.things), tuple(self.relations), self.settings)


@cache
def find_owners(part: str) -> frozenset[str]:
    """Return the things that have a part of this name."""
    return frozenset(name for name, thing in THINGS_BY_NAME.items() if part in {each for each, _, _ in thing.shapes})
