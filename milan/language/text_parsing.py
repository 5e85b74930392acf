"""What a short text is made of: its words with their parts of speech, and how deep its parse tree is."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from milan.language import NOUN_TAGS, load_pipeline

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

POS_GROUPS = {
    "noun": NOUN_TAGS,
    "verb": frozenset({"VERB"}),
    "adposition": frozenset({"ADP"}),
    "adjective": frozenset({"ADJ"}),
}


@dataclass(frozen=True)
class ParsedText:
    """A text, read.

    Attributes:
        words: in small letters, without punctuation.
        pos_tags: the universal part of speech of each word.
        tree_depth: words on the longest way from the root of the parse tree to a leaf; 0 of a text without words.
    """

    words: tuple[str, ...]
    pos_tags: tuple[str, ...]
    tree_depth: int

    def count(self, part: str) -> int:
        """How many words are a ``noun`` (names too), ``verb``, ``adposition`` or ``adjective``."""
        return sum(each in POS_GROUPS[part] for each in self.pos_tags)


def parse_texts(texts: Iterable[str], language: str = "") -> dict[str, ParsedText]:
    """Each different text, read by a pipeline of ``milan.language.load_pipeline``."""
    different = tuple(dict.fromkeys(texts))
    return dict(zip(different, _parse_texts(different, language), strict=True))


@lru_cache(maxsize=8)  # the same texts are read for several tables
def _parse_texts(texts: tuple[str, ...], language: str) -> list[ParsedText]:
    return [_parse_doc(doc) for doc in load_pipeline(language).pipe(texts, batch_size=256)]


def _parse_doc(doc: "Doc") -> ParsedText:
    kept = [token for token in doc if any(sign.isalnum() for sign in token.text)]
    depth = max((_token_depth(token) for token in kept), default=0)
    return ParsedText(tuple(token.lower_ for token in kept), tuple(token.pos_ for token in kept), depth)


def _token_depth(token: "Token") -> int:
    """Words from the root to this one, both counted."""
    return 1 + sum(1 for _ in token.ancestors)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the state of Python's, numpy's and torch's random generators afterwards: spaCy seeds all of them."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
