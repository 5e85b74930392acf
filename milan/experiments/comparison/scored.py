"""Any describers and imported tables on one dissection, with floors beside them: what every experiment of scores begins with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from milan.command import warnings_so_far
from milan.describers import sources_of
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.experiments.comparison.floors import COUNTS, SAID, counted, floors_of
from milan.experiments.describing.entrants import describe_with, entrant_of
from milan.experiments.reporting.report import Column, Row, Table, Value
from milan.probes import Probe
from milan.storage import versions
from milan.targets import Target
from milan.targets.choosing import units_of
from milan.units import Description, Unit


class Party(NamedTuple):
    """Who says something, and what."""

    name: str
    role: str  # ceiling, floor, or empty
    said: list[Description]


class Look(NamedTuple):
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
class Scored:
    """A network's dissected layers and what was said of them; the last parties are the floors.

    ``sources`` tells by role what the descriptions were made from.
    """

    target: Target
    dissections: Mapping[str, Dissection]
    parties: tuple[Party, ...]
    sources: Mapping[str, str]
    seed: int = 0

    @classmethod
    def of(cls, describers: Sequence[str], target: Target, probe: Probe, look: Look, out: Path) -> "Scored":
        """Dissects and describes; what an earlier run into ``out`` has finished is not done again."""
        entrants = [entrant_of(name, look.device) for name in describers]
        chosen = units_of(target, look.layers, look.units)
        dissections = dissect(target, probe, list(chosen), out / "dissection", k=look.k, quantile=look.quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        for entrant in entrants:
            describe_with(entrant, dissections, wanted, out / "describers" / entrant.name)
        said = [
            Party(each.name, each.role, [entry.description for entry in each.entries if entry.description is not None]) for each in entrants
        ]
        floors = floors_of(said[0].said, [each for party in said for each in party.said], look.seed)
        sources = sources_of(dissections.values(), {each.name: each.describer for each in entrants})
        parties = (*said, *(Party(name, "floor", each) for name, each in floors.items()))
        return cls(target, dissections, parties, sources, look.seed)

    @property
    def name(self) -> str:
        return self.target.spec or self.target.name

    def by_layer(self) -> Iterator[tuple[Dissection, dict[str, list[Description]]]]:
        """Each layer's dissection, and what each party said of its units."""
        for layer, dissection in self.dissections.items():
            yield dissection, {party.name: [each for each in party.said if each.unit.layer == layer] for party in self.parties}

    def table(self, name: str, columns: Sequence[Column], values: Callable[[Party], Mapping[str, Value]]) -> Table:
        """A row for each party; how many descriptions it gave, how many differ and how long they are comes last."""
        rows = [Row(party.name, {**values(party), **counted(party.said, self.seed)}, party.role) for party in self.parties]  # type: ignore[arg-type]
        return Table(name, (*columns, *COUNTS), tuple(rows))

    @property
    def note(self) -> str:
        return f"Intervals are of 95%, by drawing the units again a thousand times, seed {self.seed}. {SAID}"

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
            "versions": versions(),
            "warnings": warnings_so_far(),
        }
