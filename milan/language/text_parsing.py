"""Words, parts of speech and parse-tree depth of short texts."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from milan.errors import BadInput
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
    """A parsed text.

    Attributes:
        words: lower-case words, without punctuation.
        pos_tags: the universal part of speech of each word.
        tree_depth: number of words on the longest path from the root of the parse tree to a leaf; 0 without words.
    """

    words: tuple[str, ...]
    pos_tags: tuple[str, ...]
    tree_depth: int

    def count(self, part: str) -> int:
        """Return how many words are a ``noun`` (including names), ``verb``, ``adposition`` or ``adjective``."""
        return sum(each in POS_GROUPS[part] for each in self.pos_tags)


def parse_texts(texts: Iterable[str], language: str = "") -> dict[str, ParsedText]:
    """Parse each distinct text with the pipeline that ``load_pipeline(language)`` returns."""
    different = tuple(dict.fromkeys(texts))
    return dict(zip(different, _parse_texts(different, language), strict=True))


# Cached because several tables parse the same texts.
@lru_cache(maxsize=8)
def _parse_texts(texts: tuple[str, ...], language: str) -> list[ParsedText]:
    return [_parse_doc(doc) for doc in load_pipeline(language).pipe(texts, batch_size=256)]


def _parse_doc(doc: "Doc") -> ParsedText:
    words = [token for token in doc if any(sign.isalnum() for sign in token.text)]
    depth = max((_token_depth(token) for token in words), default=0)
    return ParsedText(tuple(token.lower_ for token in words), tuple(token.pos_ for token in words), depth)


def _token_depth(token: "Token") -> int:
    """Return the number of words from the root to this one, both included."""
    return 1 + sum(1 for _ in token.ancestors)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the state of Python's, numpy's and torch's random generators after the block; spaCy seeds all of them."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def read_treebank_files(files: Sequence[Path]) -> "list[Doc]":
    """Return the sentences of CoNLL-U files.

    Raises:
        BadInput: a file cannot be read, or the files hold no sentences.
    """
    from spacy.training.converters import conllu_to_docs

    sentences: list[Doc] = []
    for file in files:
        try:
            sentences += conllu_to_docs(file.read_text(encoding="utf-8"), n_sents=1, no_print=True)
        # The converter raises anything for a malformed line.
        except Exception as error:
            raise BadInput(f"the treebank {file} cannot be read: {type(error).__name__} {error}") from None
    if not sentences:
        raise BadInput(f"{', '.join(map(str, files))} hold no sentences of a treebank")
    return sentences
