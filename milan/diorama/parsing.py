"""Reads what a sentence says of a scene: its things with their looks, how they stand to each other, and the setting.

``milan.diorama.concepts.read`` asks which pixels a description means; this asks what there is, as a painter or a judge must know it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from milan.diorama.concepts import Concept, lexicon
from milan.diorama.names import OBJECTS, WORDS
from milan.diorama.sentences import SAID
from milan.diorama.things import BY_NAME

ANY_WORD = "?"  # where a text says that there is writing, but not what
OPENING = re.compile(
    r"^(?:there (?:is|are) )?(?:(?:an? |the )?(?:picture|photo|photograph|image|view|close-up|drawing)s? of (?:an? |the )?)?(?:an? |the )?"
)
WITHIN, WITH, OF, AND = "within", "with", "of", "and"
LINKS = {"in": WITHIN, "at": WITHIN, "with": WITH, "that says": WITH, "which says": WITH, "saying": WITH, "of": OF, "and": AND, "or": AND,
         ",": AND, ";": AND, "&": AND, "|": AND}  # fmt: skip
BESIDE = "beside"  # said of what is to the left of something, but as true of what is to its right
RELATED = {word: BESIDE if word in ("beside", "next to") else name for name, words in SAID.items() for word in words}
LETTERED = {"letter", "letters", "word", "words", "says", "saying"}  # after which comes what is written


@dataclass(frozen=True)
class Named:
    """One thing a text speaks of.

    names: what it may be, of OBJECTS; nothing where the text tells only how it looks. colours: one, or that of a pattern second;
    patterns: any of these; part: a part of it that is spoken of, with colours and patterns of its own; word: what is written on it.
    """

    names: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    part: str = ""
    part_colours: tuple[str, ...] = ()
    part_patterns: tuple[str, ...] = ()
    word: str = ""


@dataclass(frozen=True)
class Said:
    """What a text says. relations: (place of the subject among ``things``, name, place of the other); settings: any of these."""

    things: tuple[Named, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    settings: tuple[str, ...] = ()


Token = tuple[str, object]  # "concept", a Concept; "relation", its name; "link", one of those above; "word", what is written


def parse(text: str) -> Said:
    """What a text says; words that name nothing of Diorama are passed over.

    >>> said = parse("there is a red and white dotted house with a blue door beside a cat at the shore")
    >>> said.things[0].names, said.things[0].colours, said.things[0].patterns, said.things[0].part, said.things[0].part_colours
    (('house',), ('red', 'white'), ('dots',), 'door', ('blue',))
    >>> said.things[1].names, said.relations, said.settings
    (('cat',), ((0, 'beside', 1),), ('beach',))
    """
    reader = _Reader()
    for kind, value in tokens(text):
        reader.take(kind, value)
    return reader.done()


def tokens(text: str) -> Iterator[Token]:
    """The concepts, relations and joining words of a text, longest first at each place."""
    clean = OPENING.sub("", text.lower().strip().replace("polka-dot", "dot").replace(" on it", ""), count=1)
    words = re.findall(r"[a-z]+(?:-[a-z]+)?|[,;&|?]", clean)
    place = 0
    while place < len(words):
        if place and words[place - 1] in LETTERED and (words[place] in WORDS or (len(words[place]) == 1 and words[place] not in ",;&|")):
            yield "word", words[place]
            place += 1
            continue
        for length in (4, 3, 2, 1):
            said = " ".join(words[place : place + length])
            found = _known().get(said) if place + length <= len(words) else None
            if found is not None:
                yield found
                place += length - 1
                break
        place += 1


@cache
def _known() -> dict[str, Token]:
    """What each phrase is."""
    known: dict[str, Token] = {" ".join(words): ("concept", concept) for words, concept in lexicon().items()}
    known.update({word: ("relation", name) for word, name in RELATED.items()})
    known.update({word: ("link", link) for word, link in LINKS.items()})
    return known


@dataclass
class _Reader:
    """Takes a text's tokens one by one."""

    things: list[Named] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    settings: tuple[str, ...] = ()
    colours: list[str] = field(default_factory=list)  # said, and waiting for what has them
    patterns: tuple[str, ...] = ()
    relation: str = ""  # said, and waiting for its other side
    subject: int = -1  # of that relation: the thing last spoken of that is no part of a relation yet
    link: str = ""  # what joins the next thing to the last one
    loose: Named | None = None  # a part or a writing whose owner comes after it
    fresh: bool = False  # whether the thing last spoken of was the last token

    def take(self, kind: str, value: object) -> None:
        fresh, self.fresh = self.fresh, False
        if kind == "relation":
            self._settle()
            self.relation, self.link, self.subject = str(value), "", len(self.things) - 1
        elif kind == "link" and not (value == AND and self.colours and not self.patterns):
            if value != OF:
                self._settle()
                self._let_go()
            self.link = str(value)
        elif kind == "word":
            self._write(str(value))
        elif isinstance(value, Concept):
            self._concept(value, fresh)

    def _concept(self, concept: Concept, fresh: bool) -> None:
        names = tuple(name for _, name in concept.members)
        kinds = {kind for kind, _ in concept.members}
        if "colour" in kinds:
            self.colours.append(names[0])
        elif "pattern" in kinds:
            self.patterns = names
        elif "setting" in kinds:
            self._settle()
            self.settings, self.relation = names, ""
        elif "text" in kinds:
            self._write(ANY_WORD if len(names) > 1 else names[0])
        elif "part" in kinds and (self._owned(names[-1]) or fresh or "object" not in kinds):
            self._part(names[-1], fresh)
        else:
            self._thing(Named(tuple(name for kind, name in concept.members if kind == "object"), *self._adjectives()))

    def _thing(self, named: Named) -> None:
        if self.loose is not None and self.link in (OF, "") and (self.link == OF or self.relation == "on"):
            loose, self.loose, self.relation = self.loose, None, ""
            named = replace(loose, names=named.names, colours=named.colours, patterns=named.patterns)
        else:
            self._let_go()
        self.things.append(named)
        if self.relation and self.subject >= 0:
            self.relations.append((self.subject, self.relation, len(self.things) - 1))
        self.relation, self.link, self.fresh = "", "", True

    def _owned(self, part: str) -> bool:
        """Whether the thing last spoken of is said to have such a part now."""
        return self.link == WITH and bool(self.things) and bool(set(self.things[-1].names) & owners(part))

    def _part(self, part: str, fresh: bool) -> None:
        colours, patterns = self._adjectives()
        if self.things and (fresh or self._owned(part)):
            self.things[-1] = replace(self.things[-1], part=part, part_colours=colours, part_patterns=patterns)
        else:
            self._let_go()
            self.loose = Named(part=part, part_colours=colours, part_patterns=patterns)
        self.link = ""

    def _write(self, word: str) -> None:
        if self.link == WITH and self.things:
            self.things[-1] = replace(self.things[-1], word=word)
        elif word != ANY_WORD and self.loose is not None:
            self.loose = replace(self.loose, word=word)
        elif word != ANY_WORD and self.things and self.things[-1].word == ANY_WORD:
            self.things[-1] = replace(self.things[-1], word=word)
        else:
            self._let_go()
            colours, patterns = self._adjectives()
            self.loose = Named(("sign",), colours, patterns, word=word)

    def _adjectives(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = tuple(dict.fromkeys(self.colours)), self.patterns
        self.colours, self.patterns = [], ()
        return found

    def _settle(self) -> None:
        """Looks that no noun followed are of something, or, after "with", of the thing before."""
        if not self.colours and not self.patterns:
            return
        colours, patterns = self._adjectives()
        if self.link == WITH and self.things and patterns:
            last = self.things[-1]
            self.things[-1] = replace(last, patterns=patterns, colours=tuple(dict.fromkeys(last.colours + colours)))
        else:
            self._thing(Named((), colours, patterns))

    def _let_go(self) -> None:
        """A part whose owner is not told is of something that has one."""
        if self.loose is not None:
            loose, self.loose = self.loose, None
            names = loose.names or tuple(name for name in OBJECTS if name in owners(loose.part))
            self.things.append(replace(loose, names=names))

    def done(self) -> Said:
        self._settle()
        self._let_go()
        return Said(tuple(self.things), tuple(self.relations), self.settings)


@cache
def owners(part: str) -> frozenset[str]:
    """The things that have a part of that name."""
    return frozenset(name for name, thing in BY_NAME.items() if part in {each for each, _, _ in thing.shapes})
