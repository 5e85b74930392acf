"""Another unit's description: the floor that has the right words for a network, but not for its units."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.dissection.store import Dissection
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.results.catalogue import read_descriptions, table_sources
from milan.targets.target import Target
from milan.units import Description, Unit


class Shuffled(Describer):
    """Says of each unit what another describer says of another living unit of the layer; no unit keeps its own.

    Whose text a unit gets depends on the seed and on the layer's living units alone, never on which are asked for. Two
    units may still have the same text, where the other describer says the same of both.

    Args:
        of: the other describer, by name or as PATH/FILE.py:CLASS; or a table of descriptions: a folder of describe.py,
            or a csv, jsonl or parquet file.
        options: settings of the other describer, by name.
        seed: of the shuffling.
    """

    name: ClassVar[str] = "shuffled"
    version: ClassVar[int] = 1

    def __init__(self, of: str = "annotators", options: dict[str, Any] | None = None, seed: int = 0):
        self.of, self.options, self.seed = of, options, seed

    @property
    def key(self) -> str:
        texts = sorted((str(unit), said.text) for unit, said in (self._table or {}).items())
        return self.key_of(of=self._other.key if self._other else texts, seed=self.seed)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the other describer."""
        return self._other.words if self._other else "the table"

    def find_missing_models(self) -> list[MissingModel]:
        return self._other.find_missing_models() if self._other else []

    def check_evidence(self, target: Target, probe: Probe) -> None:
        if self._other:
            self._other.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """What the shuffled descriptions are made from."""
        return table_sources(self.of) if self._other is None else self._other.sources(dissection)

    @cached_property
    def _table(self) -> Mapping[Unit, Description] | None:
        """Descriptions by unit, if it is a table that is shuffled."""
        return {said.unit: said for said in read_descriptions(self.of)} if Path(self.of).exists() else None

    @cached_property
    def _other(self) -> Describer | None:
        return load_describer(self.of, **self.options or {}) if self._table is None else None

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        alive = select_active(dissection, units)
        others = permute_units(dissection.active_units(), self.seed)
        wanted = [others[unit] for unit in alive if unit in others]
        said = self._describe_originally(dissection, wanted)
        for unit in alive:
            yield (
                _relabel(unit, next(said))
                if unit in others
                else DescriptionFailure(unit, f"{unit} is the only living unit of its layer")
            )

    def _describe_originally(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        if self._other is not None:
            return self._other.describe(dissection, units) if units else iter(())
        known = self._table or {}
        return (known.get(unit) or DescriptionFailure(unit, f"{self.of} says nothing of it") for unit in units)


def permute_units(units: Sequence[Unit], seed: int) -> dict[Unit, Unit]:
    """For each unit another one: all of them in one round, in an order drawn from the seed. Empty if there are fewer
    than two.

    >>> permute_units([Unit("a", 0), Unit("a", 1)], seed=0)
    {Unit(layer='a', index=0): Unit(layer='a', index=1), Unit(layer='a', index=1): Unit(layer='a', index=0)}
    """
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed} {unit}".encode()).digest())
    found = dict(zip(order, [*order[1:], *order[:1]], strict=True)) if len(order) > 1 else {}
    return {unit: found[unit] for unit in units if unit in found}


def _relabel(unit: Unit, description: Description | DescriptionFailure) -> Description | DescriptionFailure:
    """What was said of another unit, said of this one."""
    if isinstance(description, DescriptionFailure):
        return DescriptionFailure(
            unit, f"{description.unit}, whose description it would have had: {description.reason}"
        )
    return replace(description, unit=unit)
