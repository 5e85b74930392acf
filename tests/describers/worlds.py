"""Describers whose answers are known, and some that break the contract in one way each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch

from milan.describers import Describer, DescriptionFailure, select_active
from milan.dissection.dissection import Dissection
from milan.units import Candidate, Description, Unit


class Colour(Describer):
    """Says the colour that is strongest where the unit fires: the toy world's units are named for theirs."""

    name: ClassVar[str] = "colour"

    def __init__(self, prefix: str = "", times: int = 1):
        self.prefix, self.times = prefix, times

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        for unit in select_active(dissection, units):
            yield self.one(dissection, unit)

    def one(self, dissection: Dissection, unit: Unit) -> Description:
        exemplars = dissection.exemplars(unit)
        inside = (exemplars.images * exemplars.masks).float().sum((0, 2, 3)) / exemplars.masks.sum()
        ranked = sorted(zip(inside.tolist(), ("red", "green", "blue"), strict=True), reverse=True)
        candidates = tuple(
            Candidate((self.prefix + colour + " ") * self.times, value / 255, (("likelihood", value), ("prior", -1.0)))
            for value, colour in ranked
        )
        return Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)


class Peeking(Colour):
    """Lets one unit's answer depend on which others are asked for."""

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        for unit in select_active(dissection, units):
            said = self.one(dissection, unit)
            yield Description(unit, f"{said.text} among {len(units)}", said.score)


class Morbid(Colour):
    """Describes dead units too."""

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        return (Description(unit, "something", 1.0) for unit in units)


class Fickle(Colour):
    """Draws from the global random generator."""

    def one(self, dissection: Dissection, unit: Unit) -> Description:
        return Description(unit, f"word {torch.randint(1000, (1,)).item()}", 1.0)


class Shuffling(Colour):
    """Gives its answers in an order of its own."""

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        return (self.one(dissection, unit) for unit in sorted(select_active(dissection, units)))


class Littering(Colour):
    """Leaves a file where it was not asked to."""

    def one(self, dissection: Dissection, unit: Unit) -> Description:
        Path(self.prefix).write_text("left here")
        return Description(unit, "something", 1.0)


class Mute(Colour):
    """Says nothing at all of what it was asked for."""

    def one(self, dissection: Dissection, unit: Unit) -> Description:
        return Description(unit, "  ", 1.0)


class Counting(Colour):
    """Counts how often it is asked, and fails or is interrupted at the units it is reported to."""

    failing: ClassVar[set[int]] = set()
    interrupted_at: ClassVar[int | None] = None
    asked: ClassVar[list[Unit]] = []

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        for unit in select_active(dissection, units):
            if unit.index == self.interrupted_at:
                raise KeyboardInterrupt
            self.asked.append(unit)
            yield (
                DescriptionFailure(unit, "HTTP 500: <html>no")
                if unit.index in self.failing
                else self.one(dissection, unit)
            )
