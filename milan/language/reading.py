"""What a short text is made of: its words with their parts of speech, and how deep its parse tree is."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from milan.language import NOUNS, load_language

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

PARTS = {"noun": NOUNS, "verb": frozenset({"VERB"}), "adposition": frozenset({"ADP"}), "adjective": frozenset({"ADJ"})}


@dataclass(frozen=True)
class Reading:
    """A text, read.

    Attributes:
        words: in small letters, without punctuation.
        parts: the universal part of speech of each word.
        depth: words on the longest way from the root of the parse tree to a leaf; 0 of a text without words.
    """

    words: tuple[str, ...]
    parts: tuple[str, ...]
    depth: int

    def count(self, part: str) -> int:
        """How many words are a ``noun`` (names too), ``verb``, ``adposition`` or ``adjective``."""
        return sum(each in PARTS[part] for each in self.parts)


def read(texts: Iterable[str], language: str = "") -> dict[str, Reading]:
    """Each different text, read by a pipeline of ``milan.language.load_language``."""
    different = tuple(dict.fromkeys(texts))
    return dict(zip(different, _read(different, language), strict=True))


@lru_cache(maxsize=8)  # the same texts are read for several tables
def _read(texts: tuple[str, ...], language: str) -> list[Reading]:
    return [_reading(doc) for doc in load_language(language).pipe(texts, batch_size=256)]


def _reading(doc: "Doc") -> Reading:
    kept = [token for token in doc if any(sign.isalnum() for sign in token.text)]
    depth = max((_depth(token) for token in kept), default=0)
    return Reading(tuple(token.lower_ for token in kept), tuple(token.pos_ for token in kept), depth)


def _depth(token: "Token") -> int:
    """Words from the root to this one, both counted."""
    return 1 + sum(1 for _ in token.ancestors)
