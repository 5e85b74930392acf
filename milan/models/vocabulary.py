"""The vocabulary: words to token ids and back."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from milan.errors import BadInput

START, STOP, PAD, UNK = SPECIALS = ("<start>", "<stop>", "<pad>", "<unk>")
TOKEN_PATTERN = re.compile(r"[^\W_]+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b|[^\W_]+|[^\w\s]|_")
MAX_WORD_LENGTH = 200  # characters; longer strings are no words, and are truncated


def tokenize(text: str) -> list[str]:
    """Return the lower-cased words and punctuation marks of a text.

    The result is that of spaCy's English tokenizer on all annotations of ResNet152-ImageNet.

    >>> tokenize("A dog's nose, and red-ish dots")
    ['a', 'dog', "'s", 'nose', ',', 'and', 'red', '-', 'ish', 'dots']
    """
    return [word[:MAX_WORD_LENGTH] for word in TOKEN_PATTERN.findall(text.lower())]


def detokenize(words: Iterable[str]) -> str:
    """Join words to a text, without spaces before punctuation marks.

    >>> detokenize(["a", "dog", "'s", "nose", ",", "red", "-", "ish"])
    "a dog's nose, red-ish"
    """
    text = re.sub(r" (?=[.,;:!?)\]%]|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b)", "", " ".join(words))
    return re.sub(r"(?<=[(\[]) | ?([-/]) ?", r"\1", text)


class Vocabulary:
    """Token ids of words: the words in their order, then ``<start> <stop> <pad> <unk>``, as in the 2022 release.

    Args:
        words: the words, without the special tokens.

    >>> vocabulary = Vocabulary.build(["red dots", "red lines"], minimum=1)
    >>> vocabulary.encode("red cars"), vocabulary.decode([0, 1, vocabulary.stop, 2])
    ([0, 6, 4], 'red dots')
    """

    def __init__(self, words: Sequence[str]):
        """Check the words.

        Raises:
            BadInput: a word occurs twice or is a special token.
        """
        twice = [word for word, count in Counter(words).items() if count > 1 or word in SPECIALS]
        if twice:
            raise BadInput(
                f"a vocabulary's words must differ from each other and from {' '.join(SPECIALS)}; these do not:"
                f" {twice[:5]}"
            )
        self.words = list(words)

    @classmethod
    def build(cls, texts: Iterable[str], *, minimum: int = 2) -> "Vocabulary":
        """Return the vocabulary of the words that occur at least ``minimum`` times.

        Words are sorted by frequency, equally frequent ones alphabetically. With the default of 2, ``<unk>`` occurs in
        training; the 2022 code keeps every word (``minimum=1``), so that it never does.
        """
        counts = Counter(word for text in texts for word in tokenize(text))
        return cls(
            sorted((word for word, count in counts.items() if count >= minimum), key=lambda word: (-counts[word], word))
        )

    def __len__(self) -> int:
        return len(self.words) + len(SPECIALS)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word and special token."""
        return {word: index for index, word in enumerate([*self.words, *SPECIALS])}

    @property
    def start(self) -> int:
        """The id of ``<start>``."""
        return len(self.words)

    @property
    def stop(self) -> int:
        """The id of ``<stop>``."""
        return len(self.words) + 1

    @property
    def pad(self) -> int:
        """The id of ``<pad>``."""
        return len(self.words) + 2

    @property
    def unk(self) -> int:
        """The id of ``<unk>``."""
        return len(self.words) + 3

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's words, with unknown ones as ``<unk>``, followed by ``<stop>``."""
        return [*(self.ids.get(word, self.unk) for word in tokenize(text)), self.stop]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text up to ``<stop>``, without other special tokens."""
        words = []
        for token in tokens:
            if token == self.stop:
                break
            if 0 <= token < len(self.words):
                words.append(self.words[token])
        return detokenize(words)
