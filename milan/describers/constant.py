"""One text for every unit: the floor below which no describer has looked at its units."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from milan.describers.base import Describer, living
from milan.dissection.exchange import annotations_of
from milan.dissection.store import Dissection
from milan.embedded import embedded
from milan.errors import BadInput
from milan.units import Description, Unit


class Constant(Describer):
    """Says the same of all units; ``score`` is always 0.

    Args:
        text: what it says; if empty, the text that occurs most often among the annotations (ties: the first by alphabet), which is what
            a model says that learnt nothing from pictures.
        annotations: whose most frequent text: ``diorama``, or the path of an ``annotations.csv`` or of a folder that holds some.
    """

    name: ClassVar[str] = "constant"
    version: ClassVar[int] = 1

    def __init__(self, text: str = "", annotations: str = "diorama"):
        self.text, self.annotations = text, annotations

    @property
    def key(self) -> str:
        return self.key_of(says=self.says)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """The annotations, unless a text was given."""
        return {} if self.text.strip() else self.specs("annotations")

    @cached_property
    def says(self) -> str:
        """The text."""
        return self.text.strip() or most_frequent(self.annotations)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        return (Description(unit, self.says, 0.0) for unit in living(dissection, units))


def most_frequent(annotations: str) -> str:
    """The text that is said of most units, in lower case.

    Raises:
        BadInput: there are no annotations.
    """
    place = embedded("data/diorama/annotations") if annotations == "diorama" else Path(annotations)
    files = [place] if place.is_file() else sorted(place.glob("**/annotations.csv"))
    said = Counter(" ".join(text.lower().split()) for file in files for texts in annotations_of(file).values() for text in texts)
    if not said:
        raise BadInput(f"no annotations at {place} to take the most frequent text of; give one with text=TEXT")
    return min(said, key=lambda text: (-said[text], text))
