"""Random numbers that are the same on every machine: raw PCG64 words, whose stream numpy guarantees, and integer
arithmetic.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
WORDS_PER_BLOCK = 128


class PortableRng:
    """A random generator seeded by whole numbers.

    >>> [PortableRng(0, 7).randrange(100) for _ in range(2)], PortableRng(0, 7).random_words(2).dtype
    ([87, 87], dtype('uint64'))
    """

    def __init__(self, *key: int):
        self._generator = np.random.PCG64(np.random.SeedSequence(list(key)))
        self._words: list[int] = []

    def randrange(self, count: int) -> int:
        """Return a whole number from 0 to ``count - 1``."""
        if not self._words:
            self._words = self._generator.random_raw(WORDS_PER_BLOCK).tolist()
        return (self._words.pop() >> 11) % count

    def randint(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + self.randrange(high - low + 1)

    def chance(self, percent: int) -> bool:
        """Return True with a probability of ``percent`` in a hundred."""
        return self.randrange(100) < percent

    def choice(self, choices: Sequence[T]) -> T:
        """Return one of the choices, each with the same probability; one that is listed twice is twice as likely."""
        return choices[self.randrange(len(choices))]

    def random_words(self, count: int) -> np.ndarray:
        """Return ``count`` random 64-bit words."""
        return self._generator.random_raw(count)
