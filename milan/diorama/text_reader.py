"""Reads which pixels a description denotes, as a formula of concepts.

- A thing has the colours and patterns of its noun phrase: "red cars and blue boats" are red pixels of cars and blue
  pixels of boats. "With" adds a thing's part: "red cars with blue wheels" are red pixels of cars and blue pixels of
  cars' wheels. "Of" restricts a part to its owner, and a setting restricts everything before it.
- "And", "or" and commas join: a pixel of any of them counts. In a text that has brackets, "both", "neither", "&" or
  "|", as formulas in words have, "and" means both at once.
- "No", "not", "without", "but not", "except" and similar words exclude: from what precedes them, or from everything if
  nothing does.
- Synonyms and plurals are read as the concept, see ``milan.diorama.scene_vocabulary``; a picture's positions ("at the
  top") and words such as "picture" are ignored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from milan.diorama.formulas import EVERYTHING, AllOf, AnyOf, Formula, Not, iter_concepts, join_formulas
from milan.diorama.scene_concepts import Concept
from milan.diorama.text_tokens import (
    ALL,
    AND,
    BUT,
    CLOSE,
    CONCEPT,
    FOR,
    LAST,
    LIST,
    NON,
    NOT,
    NOUN,
    OPEN,
    OR,
    UNKNOWN,
    Token,
    tokenize,
)
from milan.units import split_weighted_sum

MAX_DEPTH = 50  # nested brackets and negations; deeper ones are ignored
MAX_TOKENS = 400  # tokens that are read of a text; the rest is ignored
MAX_PHRASE_CONCEPTS = 6  # concepts in a row; more are a list of alternatives
FORMULA_MARKS = re.compile(r"[()&|]|\b(?:both|neither)\b")
LOOKS = frozenset({"colour", "pattern"})
SILENCE = frozenset({"", "nothing", "nothing in particular", "nothing particular", "none", "nothing specific"})


@dataclass(frozen=True)
class ParsedDescription:
    """What a description denotes.

    Attributes:
        terms: weights and formulas that are added up; one with weight 1 unless the text is a weighted sum.
        is_silent: whether the text says nothing, or that there is nothing to say.
        understood: the share of the content words that were read, 0..1; 1 for a silent text.
    """

    terms: tuple[tuple[float, Formula], ...]
    is_silent: bool = False
    understood: float = 1.0

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """The concepts that are named, each once."""
        return tuple(dict.fromkeys(concept for _, formula in self.terms for concept in iter_concepts(formula)))

    @property
    def concept_count(self) -> int:
        """Number of different concepts that are named."""
        return len(self.concepts)


def parse_description(text: str) -> ParsedDescription:
    """Read what a text denotes: a phrase, a sentence, a formula in words, or a weighted sum of any of these.

    >>> from milan.diorama.formulas import format_formula
    >>> format_formula(parse_description("red and white stripes").terms[0][1])
    '(red or white) and stripes'
    >>> format_formula(parse_description("roofs without chimneys").terms[0][1])
    'roof but not chimney'
    >>> parse_description("2 dogs - 1 snow").terms[1][0], parse_description("glossy stuff").understood
    (-1.0, 0.0)
    """
    clean = " ".join(text.lower().replace("n't", " not").replace("’", "'").split())
    if clean.strip(" .!") in SILENCE:
        return ParsedDescription((), is_silent=True)
    terms, known, unknown = [], 0, 0
    for part, weight in split_weighted_sum(clean):
        tokens = list(islice(tokenize(part), MAX_TOKENS))
        known += sum(token.kind in (CONCEPT, ALL) for token in tokens)
        unknown += sum(token.kind == UNKNOWN for token in tokens)
        formula = _parse_tokens(tokens, bool(FORMULA_MARKS.search(part)))
        if formula is not None:
            terms.append((weight, formula))
    return ParsedDescription(tuple(terms), understood=known / max(1, known + unknown))


def _parse_tokens(tokens: list[Token], is_formula: bool) -> Formula | None:
    if sum(token.kind == OPEN for token in tokens) != sum(token.kind == CLOSE for token in tokens):
        tokens = [token for token in tokens if token.kind not in (OPEN, CLOSE)]
    parser = _Parser(_bind_listed_colours(tokens, is_formula), is_formula)
    parts = [part for part in parser.iter_unions() if part is not None]
    return join_formulas(AnyOf, *parts) if parts else None


def _bind_listed_colours(tokens: list[Token], is_formula: bool) -> list[Token]:
    """Remove the word that joins two colours, so that both belong to the next noun ("red and white stripes")."""
    kept: list[Token] = []
    for place, token in enumerate(tokens):
        joins = token.kind == OR or (token.kind == AND and not is_formula)
        if joins and _is_colour(tokens, place - 1) and _is_colour(tokens, place + 1):
            continue
        kept.append(token)
    return kept


def _is_colour(tokens: list[Token], place: int) -> bool:
    concept = tokens[place].concept if 0 <= place < len(tokens) else None
    return concept is not None and concept.kind == "colour"


class _Parser:
    """A recursive-descent parser of tokens."""

    def __init__(self, tokens: list[Token], is_formula: bool):
        self.tokens, self.place, self.is_formula, self.depth = tokens, 0, is_formula, 0

    def iter_unions(self) -> Iterator[Formula | None]:
        while self.place < len(self.tokens):
            yield self.parse_union()
            # A bracket that closes nothing is passed over.
            self._accept(CLOSE)

    def parse_union(self) -> Formula | None:
        """Parse what "and", "or" and commas join, and what is taken away from it."""
        parts: list[Formula] = []
        join = ""
        while (token := self._peek()) is not None and token.kind != CLOSE:
            if token.kind in (AND, OR, BUT):
                self.place += 1
                # "everything but cars" takes away.
                excepts = token.kind == BUT and parts[-1:] == [EVERYTHING] and not self._is_next(NOT)
                if excepts:
                    parts = [_subtract(EVERYTHING, self._parse_list(LIST))]
                join = "&" if token.value or (token.kind == AND and self.is_formula) else token.kind
            elif token.kind == NOT:
                self.place += 1
                self._exclude(parts, self._parse_list(token.value), token.value, join)
                join = ""
            else:
                part = self._parse_part()
                if part is not None and join == "&" and parts:
                    parts[-1] = join_formulas(AllOf, parts[-1], part)
                elif part is not None:
                    parts.append(part)
                join = ""
        return join_formulas(AnyOf, *parts) if parts else None

    def _exclude(self, parts: list[Formula], excluded: Formula | None, reach: str, join: str) -> None:
        if excluded is None:
            return
        if not parts or join == OR:
            parts.append(Not(excluded))
        elif reach == LAST or join == "&":
            parts[-1] = _subtract(parts[-1], excluded)
        else:
            parts[:] = [_subtract(join_formulas(AnyOf, *parts), excluded)]

    def _parse_list(self, reach: str) -> Formula | None:
        """Parse what a negation takes away."""
        parts = [self._parse_part()]
        while (token := self._peek()) is not None and (token.kind == OR or (reach == LIST and token.kind == AND)):
            following = self.tokens[self.place + 1].kind if self.place + 1 < len(self.tokens) else CLOSE
            if following not in (CONCEPT, NOUN, UNKNOWN, OPEN):
                break
            self.place += 1
            parts.append(self._parse_part())
        known = [part for part in parts if part is not None]
        return join_formulas(AnyOf, *known) if known else None

    def _parse_part(self) -> Formula | None:
        """Parse a bracket, a negation or a phrase; always takes at least one token where there is one."""
        token = self._peek()
        if token is None or token.kind == CLOSE:
            return None
        if token.kind in (OPEN, NOT) and self.depth < MAX_DEPTH:
            self.place, self.depth = self.place + 1, self.depth + 1
            if token.kind == NOT:
                part = self._parse_part()
                part = None if part is None else Not(part)
            else:
                part = self.parse_union()
                self._accept(CLOSE)
            self.depth -= 1
            return part
        return self._parse_phrase()

    def _parse_phrase(self) -> Formula | None:
        first = self.place
        while (token := self._peek()) is not None and token.kind in (CONCEPT, NOUN, UNKNOWN, FOR, ALL):
            self.place += 1
        phrase = self.tokens[first : self.place]
        if not phrase:
            self.place += 1
            return None
        if all(token.kind != CONCEPT for token in phrase):
            return EVERYTHING if any(token.kind == ALL for token in phrase) else None
        return _read_phrase(phrase)

    def _peek(self) -> Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def _is_next(self, kind: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == kind

    def _accept(self, kind: str) -> None:
        self.place += self._is_next(kind)


def _subtract(whole: Formula, excluded: Formula | None) -> Formula:
    if excluded is None:
        return whole
    return join_formulas(AllOf, whole, Not(excluded))


@dataclass(frozen=True)
class _NounPhrase:
    """Pixels of a noun phrase, the kinds of concepts in it, and the things it names."""

    formula: Formula
    kinds: frozenset[str]
    things: AnyOf

    @property
    def heads(self) -> frozenset[str]:
        return self.kinds - LOOKS


def _read_phrase(tokens: list[Token]) -> Formula:
    """Join the noun phrases between prepositions, from the left."""
    phrase: _NounPhrase | None = None
    relation, start = "", 0
    for place in [*(place for place, token in enumerate(tokens) if token.kind == FOR), len(tokens)]:
        noun_phrase = _read_noun_phrase(tokens[start:place])
        if noun_phrase is not None:
            phrase = noun_phrase if phrase is None else _relate(phrase, relation, noun_phrase)
        if place < len(tokens):
            relation, start = tokens[place].value, place + 1
    assert phrase is not None
    return phrase.formula


def _read_noun_phrase(tokens: list[Token]) -> _NounPhrase | None:
    """Return a noun phrase, whose colours and patterns belong to its noun; two nouns of a kind are a list."""
    named = [(token.concept, token.value == NON) for token in tokens if token.concept is not None]
    if not named:
        return None
    if len(named) > MAX_PHRASE_CONCEPTS:
        return _NounPhrase(AnyOf(tuple(concept for concept, _ in named)), frozenset({"object"}), AnyOf(()))
    groups: list[list[tuple[Concept, bool]]] = [[]]
    nouns_left = sum(concept.kind not in LOOKS for concept, _ in named)
    for concept, is_barred in named:
        kinds = {other.kind for other, _ in groups[-1]}
        is_look = concept.kind in LOOKS
        nouns_left -= not is_look
        if (bool(kinds - LOOKS) and nouns_left > 0) if is_look else concept.kind in kinds:
            groups.append([])
        groups[-1].append((concept, is_barred))
    things = tuple(concept for concept, _ in named if concept.kind == "object")
    return _NounPhrase(
        join_formulas(AnyOf, *map(_bind, groups)), frozenset(concept.kind for concept, _ in named), AnyOf(things)
    )


def _bind(named: list[tuple[Concept, bool]]) -> Formula:
    """Return the pixels with one of the concepts of each kind, and without the excluded ones."""
    by_kind: dict[str, list[Formula]] = {}
    for concept, is_barred in dict.fromkeys(named):
        if not is_barred:
            by_kind.setdefault(concept.kind, []).append(concept)
    barred = [Not(concept) for concept, is_barred in named if is_barred]
    return join_formulas(AllOf, *(join_formulas(AnyOf, *each) for each in by_kind.values()), *barred)


def _relate(left: _NounPhrase, relation: str, right: _NounPhrase) -> _NounPhrase:
    """Join two noun phrases by a preposition: "with", "of" and its like, or one of place."""
    join: type[AllOf | AnyOf] = AnyOf
    other = right.formula
    if right.heads == {"setting"} or left.heads == {"setting"}:
        join = AllOf
    elif relation != "near" and not left.heads & right.heads and "object" not in left.kinds:
        # A look, a part or a writing of something.
        join = AllOf if left.kinds != right.kinds else AnyOf
    elif relation != "near" and not right.heads:
        # A thing in a colour or with a pattern.
        join = AllOf
    elif relation == "with" and "object" not in right.kinds:
        other = join_formulas(AllOf, right.formula, left.things)
    things = left.things if left.things.parts else right.things
    return _NounPhrase(join_formulas(join, left.formula, other), left.kinds | right.kinds, things)
