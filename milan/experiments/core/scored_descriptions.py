"""Any describers and imported tables on one dissection, with floors beside them: what every experiment of scores begins
with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from milan.console.command_line import get_recorded_warnings
from milan.describers import sources_of
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.experiments.core.baselines import COUNT_COLUMNS, FLOORS_NOTE, count_descriptions, make_floors
from milan.experiments.core.evaluated_describers import load_evaluated_describer, run_describer
from milan.experiments.core.report import Column, Row, Table, Value
from milan.probes import Probe
from milan.storage.files import collect_versions
from milan.targets.target import Target
from milan.targets.unit_selection import select_units
from milan.units import Description, Unit


class DescriptionSet(NamedTuple):
    """Who says something, and what."""

    name: str
    role: str  # ceiling, floor, or empty
    descriptions: list[Description]


class DissectionConfig(NamedTuple):
    """How a network is looked at.

    layers: those of Diorama's networks have names of their own; units: as ``choose_units`` reads them, all if empty.
    """

    layers: Sequence[str] = ()
    units: str = ""
    k: int = 15
    quantile: float = 0.99
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class DescriptionSets:
    """A network's dissected layers and what was said of them; the last parties are the floors.

    ``sources`` tells by role what the descriptions were made from.
    """

    target: Target
    dissections: Mapping[str, Dissection]
    sets: tuple[DescriptionSet, ...]
    sources: Mapping[str, str]
    seed: int = 0

    @classmethod
    def dissect_and_describe(
        cls, describers: Sequence[str], target: Target, probe: Probe, config: DissectionConfig, out: Path
    ) -> "DescriptionSets":
        """Dissects and describes; what an earlier run into ``out`` has finished is not done again."""
        evaluated_describers = [load_evaluated_describer(name, target, probe, config.device) for name in describers]
        chosen = select_units(target, config.layers, config.units)
        dissections = dissect(target, probe, list(chosen), out / "dissection", k=config.k, quantile=config.quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        for evaluated in evaluated_describers:
            run_describer(evaluated, dissections, wanted, out / "describers" / evaluated.name)
        said = [
            DescriptionSet(
                each.name, each.role, [entry.description for entry in each.entries if entry.description is not None]
            )
            for each in evaluated_describers
        ]
        floors = make_floors(
            said[0].descriptions,
            [each for description_set in said for each in description_set.descriptions],
            config.seed,
        )
        sources = sources_of(dissections.values(), {each.name: each.describer for each in evaluated_describers})
        description_sets = (*said, *(DescriptionSet(name, "floor", each) for name, each in floors.items()))
        return cls(target, dissections, description_sets, sources, config.seed)

    @property
    def name(self) -> str:
        return self.target.name

    def iter_layers(self) -> Iterator[tuple[Dissection, dict[str, list[Description]]]]:
        """Each layer's dissection, and what each party said of its units."""
        for layer, dissection in self.dissections.items():
            yield (
                dissection,
                {
                    description_set.name: [each for each in description_set.descriptions if each.unit.layer == layer]
                    for description_set in self.sets
                },
            )

    def make_table(
        self, name: str, columns: Sequence[Column], values: Callable[[DescriptionSet], Mapping[str, Value]]
    ) -> Table:
        """A row for each party; how many descriptions it gave, how many differ and how long they are comes last."""
        rows = [
            Row(
                description_set.name,
                {**values(description_set), **count_descriptions(description_set.descriptions, self.seed)},
                description_set.role,  # type: ignore[arg-type]
            )
            for description_set in self.sets
        ]
        return Table(name, (*columns, *COUNT_COLUMNS), tuple(rows))

    @property
    def note(self) -> str:
        return f"Intervals are of 95%, by drawing the units again a thousand times, seed {self.seed}. {FLOORS_NOTE}"

    @property
    def facts(self) -> dict[str, Any]:
        """What another run needs for the same numbers."""
        first = next(iter(self.dissections.values()))
        return {
            "target": self.name,
            "probe": first.open_probe().spec,
            "images": len(first.activations()),
            "layers": list(self.dissections),
            "k": first.k,
            "quantile": first.quantile,
            "seed": self.seed,
            "hashes": {layer: dissection.key for layer, dissection in self.dissections.items()},
            "versions": collect_versions(),
            "warnings": get_recorded_warnings(),
        }
