"""The descriptions of several describers with the floors beside them, and tables with a row for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from milan.dissection.dissection import Dissection
from milan.experiments.core.baselines import COUNT_COLUMNS, FLOORS_NOTE, count_descriptions, make_floors
from milan.experiments.core.report import Column, Role, Row, Table, Value
from milan.experiments.core.study import Study
from milan.units import Description


class DescriptionSet(NamedTuple):
    """The descriptions of one describer or floor."""

    name: str
    role: Role
    descriptions: list[Description]


@dataclass(frozen=True)
class DescriptionSets:
    """The descriptions of a study's describers, then those of the floors."""

    study: Study
    sets: tuple[DescriptionSet, ...]

    @classmethod
    def describe(cls, study: Study, describers: Sequence[str]) -> "DescriptionSets":
        """Describe a study's units with each describer, and add the floors."""
        own = [DescriptionSet(each.name, each.role, each.descriptions) for each in study.describe(*describers)]
        everything = [each for one in own for each in one.descriptions]
        floors = make_floors(own[0].descriptions, everything, study.seed)
        return cls(study, (*own, *(DescriptionSet(name, "floor", each) for name, each in floors.items())))

    def iter_layers(self) -> Iterator[tuple[Dissection, dict[str, list[Description]]]]:
        """Yield each layer's dissection with the descriptions of its units, by describer."""
        for layer, dissection in self.study.dissections.items():
            yield (
                dissection,
                {one.name: [each for each in one.descriptions if each.unit.layer == layer] for one in self.sets},
            )

    def make_table(
        self, name: str, columns: Sequence[Column], values: Callable[[DescriptionSet], Mapping[str, Value]]
    ) -> Table:
        """Return a row for each describer and floor; the counts of its descriptions come last."""
        rows = [
            Row(one.name, {**values(one), **count_descriptions(one.descriptions, self.study.seed)}, one.role)
            for one in self.sets
        ]
        return Table(name, (*columns, *COUNT_COLUMNS), tuple(rows))

    @property
    def note(self) -> str:
        """What a reader must know of intervals and floors."""
        return f"Intervals are 95% bootstrap intervals over units, with seed {self.study.seed}. {FLOORS_NOTE}"
