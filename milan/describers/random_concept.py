"""A concept drawn by lot: the floor for describers that choose from a set of concepts."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

from milan.describers._shared.base import Describer, select_active
from milan.dissection.store import Dissection
from milan.units import Description, Unit


class RandomConcept(Describer):
    """Says of each unit a concept of a set, all of them equally likely; ``score`` is always 0.

    Args:
        concepts: the set, as ``milan.concepts.concept_sets.load_concept_set`` takes it: ``diorama``, or a text file
            with a concept on each line.
        seed: of the lots; what a unit draws depends on the seed, the set and the unit's own name.
    """

    name: ClassVar[str] = "random_concept"
    version: ClassVar[int] = 1
    words = "the concept set"

    def __init__(self, concepts: str = "20k", seed: int = 0):
        self.concepts, self.seed = concepts, seed

    @property
    def key(self) -> str:
        return self.key_of(concepts=self.concept_names, seed=self.seed)

    @cached_property
    def concept_names(self) -> list[str]:
        """The concepts that may be drawn."""
        from milan.concepts.concept_sets import load_concept_set

        return load_concept_set(self.concepts)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        return (
            Description(unit, self.concept_names[choose_index(f"{self.seed} {unit}", len(self.concept_names))], 0.0)
            for unit in select_active(dissection, units)
        )


def choose_index(name: str, count: int) -> int:
    """A number from 0 to ``count - 1`` that the name decides, all equally likely.

    >>> choose_index("0 layer4:17", 10), choose_index("1 layer4:17", 10)
    (2, 5)
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count
