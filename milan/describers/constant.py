"""One text for all units: the floor for all describers, since it uses nothing of a unit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

from milan.describers._shared.base import Describer, select_active
from milan.dissection.dissection import Dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput
from milan.pretrained.stand_ins import locate_annotations
from milan.probes import Probe
from milan.targets.target import Target
from milan.units import Description, Unit

DEFAULT_TEXT = "objects"


class Constant(Describer):
    """Gives all units the same text; ``score`` is always 0.

    Args:
        text: the text; if empty, the most frequent one of the annotations (ties: the first by alphabet), which is what
            a model says that has learnt nothing from images; without annotations ``DEFAULT_TEXT``.
        annotations: path of an ``annotations.csv`` or of a folder with some, or the name of the stand-in's.
    """

    name: ClassVar[str] = "constant"
    version: ClassVar[int] = 1
    words = "the text or the annotations that were given"

    def __init__(self, text: str = "", annotations: str = ""):
        self.text, self.annotations = text, annotations

    @property
    def key(self) -> str:
        """Content key of the text alone, whatever its source."""
        return self.key_of(says=self.constant_text)

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Read the annotations that the text is taken from, so that an error in them is reported before the run."""
        _ = self.constant_text

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the annotations, unless a text was given."""
        return {} if self.text.strip() else self.specs("annotations")

    @cached_property
    def constant_text(self) -> str:
        """The text."""
        if self.text.strip() or not self.annotations:
            return self.text.strip() or DEFAULT_TEXT
        return find_most_frequent_text(self.annotations)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the same text, with score 0, for each active unit."""
        return (Description(unit, self.constant_text, 0.0) for unit in select_active(dissection, units))


def find_most_frequent_text(annotations: str) -> str:
    """Return the most frequent text among annotations, in lower case.

    Raises:
        BadInput: there are no annotations.
    """
    place = locate_annotations(annotations)
    files = [place] if place.is_file() else sorted(place.glob("**/annotations.csv"))
    counts = Counter(
        " ".join(text.lower().split())
        for file in files
        for texts in read_unit_annotations(file).values()
        for text in texts
    )
    if not counts:
        raise BadInput(f"no annotations at {place} to take the most frequent text of; give one with text=TEXT")
    return min(counts, key=lambda text: (-counts[text], text))
