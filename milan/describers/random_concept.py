"""A random concept for each unit: the floor for describers that choose from a set of concepts."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

from milan.describers._shared.base import Describer, select_active
from milan.dissection.dissection import Dissection
from milan.units import Description, Unit


class RandomConcept(Describer):
    """Gives each unit a random concept of a set, with uniform probability; ``score`` is always 0.

    Args:
        concepts: concept set, as ``milan.concepts.concept_sets.load_concept_set`` takes it.
        seed: random seed; a unit's concept depends on the seed, the set and the unit's name.
    """

    name: ClassVar[str] = "random_concept"
    version: ClassVar[int] = 1
    words = "the concept set"

    def __init__(self, concepts: str = "20k", seed: int = 0):
        self.concepts, self.seed = concepts, seed

    @property
    def key(self) -> str:
        """Content key of the concepts' names and the seed."""
        return self.key_of(concepts=self.concept_names, seed=self.seed)

    @cached_property
    def concept_names(self) -> list[str]:
        """The concepts to choose from."""
        from milan.concepts.concept_sets import load_concept_set

        return load_concept_set(self.concepts)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield a random concept, with score 0, for each active unit."""
        return (
            Description(unit, self.concept_names[choose_index(f"{self.seed} {unit}", len(self.concept_names))], 0.0)
            for unit in select_active(dissection, units)
        )


def choose_index(name: str, count: int) -> int:
    """Return a number from 0 to ``count - 1`` that depends on the name alone, uniform over names.

    >>> choose_index("0 layer4:17", 10), choose_index("1 layer4:17", 10)
    (2, 5)
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count
