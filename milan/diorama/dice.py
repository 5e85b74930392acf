"""Randomness that is the same on every machine: raw PCG64 words, whose stream numpy promises to keep, and integer arithmetic."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 128


class Dice:
    """An endless row of choices drawn from the given whole numbers alone.

    >>> [Dice(0, 7).below(100) for _ in range(2)], Dice(0, 7).bits(2).dtype
    ([87, 87], dtype('uint64'))
    """

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))
        self._words: list[int] = []

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1``."""
        if not self._words:
            self._words = self._bits.random_raw(BLOCK).tolist()
        return (self._words.pop() >> 11) % count

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def bits(self, count: int) -> np.ndarray:
        """``count`` random 64-bit words."""
        return self._bits.random_raw(count)
