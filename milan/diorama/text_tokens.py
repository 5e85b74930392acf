"""Splits a description into tokens: concepts, and the words that join or restrict them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from milan.diorama.scene_concepts import Concept, build_lexicon, normalize_words

LONGEST_NAME = 4  # words of the longest name
# A position in the image is no concept, and the top of an image is not that of a table.
POSITION_PATTERN = re.compile(
    r"\b(?:at|on|in|near|along|towards?) the (?:very )?"
    r"(?:top|bottom|left|right|middle|cent(?:er|re)|edges?|sides?|upper|lower|corners?|back|front)\b"
    r"(?: (?:half|part|side|edge|corner))?(?: of the (?:image|picture|scene|photo)s?)?"
)
PICTURE_PATTERN = re.compile(
    r"\b(?:picture|photo|photograph|image|view|close-up|drawing|illustration|depiction|patch|part|piece|example)(?:e?s)?"
    r" (?:of|showing|depicting|containing)\b"
)
TOKEN_PATTERN = re.compile(r"[a-z]+(?:-[a-z]+)*|[(),;&|/]")

AND, OR, BUT, NOT, ALL, FOR, NOUN, CONCEPT, UNKNOWN, OPEN, CLOSE = (
    "and", "or", "but", "not", "all", "for", "noun", "concept", "unknown", "(", ")",
)  # fmt: skip
NON = "non"
# The reach of a negation: "without" excludes from the last thing, the others from everything before them; "except"
# excludes a whole list, the others only what "or" joins.
LAST, WHOLE, LIST = "last", "whole", "list"
WORDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("and", ",", ";", "as well as", "plus", "also"), (AND, "")),
    **dict.fromkeys(("or", "nor", "|", "/"), (OR, "")),
    "&": (AND, "&"),
    "but": (BUT, ""),
    **dict.fromkeys(("without", "lacking", "lacks", "free of", "devoid of", "minus", "with no"), (NOT, LAST)),
    **dict.fromkeys(
        ("no", "not", "never", "rather than", "instead of", "absence of", "unlike", "cannot"), (NOT, WHOLE)
    ),
    **dict.fromkeys(
        ("except", "except for", "excluding", "other than", "apart from", "aside from", "neither"), (NOT, LIST)
    ),
    **dict.fromkeys(("everything", "anything", "all", "whatever"), (ALL, "")),
    **dict.fromkeys(("not only", "nothing but", "both"), (NOUN, "none")),
    "(": (OPEN, ""),
    ")": (CLOSE, ""),
    **dict.fromkeys(("with", "having", "wearing", "that has", "that have", "which have", "bearing"), (FOR, "with")),
    **dict.fromkeys(("of", "on", "in", "at", "from", "inside", "within"), (FOR, "of")),
    **dict.fromkeys(
        (
            "above", "over", "under", "below", "near", "beside", "behind", "before", "by", "against", "around",
            "between", "among", "next to", "in front of", "on top of", "left of", "to the left of",
            "right of", "to the right of",
            "to",
        ),
        (FOR, "near"),
    ),
    **dict.fromkeys(
        (
            "thing", "area", "region", "surface", "part", "place", "stuff", "item", "shape", "element", "section",
            "spot of", "color", "colour", "scene", "image", "photo", "photograph", "view", "close up", "side",
            "piece", "patch",
        ),
        (NOUN, "thing"),
    ),
}  # fmt: skip
FILLERS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "their", "there", "here", "is", "are",
    "was", "were", "be", "been", "being", "has", "have", "had", "do", "does", "did", "which", "who", "whose",
    "some", "any", "each", "every", "many", "much", "few", "several", "more", "most", "other", "various",
    "different", "all", "one", "two", "three", "lots", "lot", "very", "also", "just", "only", "mainly",
    "mostly", "often", "usually", "typically", "especially", "such", "as", "like", "containing", "contain",
    "contains", "show", "shows", "showing", "shown", "depict", "depicts", "depicting", "include", "includes",
    "including", "look", "looks", "looking", "appear", "appears", "can", "may", "might", "will", "would",
    "could", "kind", "type", "sort", "kinds", "types", "sorts", "made", "up", "out", "into", "than", "then",
    "so", "too", "both", "unit", "neuron", "detects", "responds", "activated", "fires", "when", "where",
    "while", "well", "visible", "seen", "present", "particular", "general", "large", "small", "big", "little",
    "bright", "set", "group", "groups", "pair", "pairs", "number", "if", "for",
})  # fmt: skip


class Token(NamedTuple):
    """A concept, or a word that joins or limits what concepts denote."""

    kind: str
    value: str = ""
    concept: Concept | None = None


def tokenize(text: str) -> Iterator[Token]:
    """Yield the tokens of a text, the longest name first at each word."""
    clean = PICTURE_PATTERN.sub(" ", POSITION_PATTERN.sub(" ", text))
    words = [part for word in TOKEN_PATTERN.findall(clean) for part in word.split("-")]
    place = 0
    while place < len(words):
        for length in range(min(LONGEST_NAME, len(words) - place), 0, -1):
            phrase = " ".join(words[place : place + length])
            token = _find_token(phrase)
            if token is not None:
                # "non-red cars" are cars.
                yield token._replace(value=NON) if words[place - 1 : place] == [NON] and token.concept else token
                break
        else:
            length = 1
            if words[place] not in FILLERS and words[place] != NON:
                yield Token(UNKNOWN)
        place += length


def _find_token(phrase: str) -> Token | None:
    singular = normalize_words(phrase)
    if phrase in WORDS or " ".join(singular) in WORDS:
        return Token(*(WORDS.get(phrase) or WORDS[" ".join(singular)]))
    concept = build_lexicon().get(singular)
    return None if concept is None else Token(CONCEPT, concept=concept)
