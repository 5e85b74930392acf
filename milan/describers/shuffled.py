"""Another unit's description: the floor that has a network's words, but not those of the unit."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, DescriptionRequest, select_active
from milan.dissection.dissection import Dissection
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.results.catalogue import read_descriptions, table_sources
from milan.targets.target import Target
from milan.units import Description, Unit


class Shuffled(Describer):
    """Gives each unit the description of another active unit of its layer; no unit keeps its own.

    The assignment depends on the seed and on the layer's active units alone, not on which units are asked for. Two
    units may still have the same text, if the other describer gives both the same.

    Args:
        of: the other describer, by name or as PATH/FILE.py:CLASS; or a table of descriptions: a folder of describe.py,
            or a csv, jsonl or parquet file.
        options: settings of the other describer, by name.
        seed: random seed of the permutation.
    """

    name: ClassVar[str] = "shuffled"
    version: ClassVar[int] = 1

    def __init__(self, of: str = "annotators", options: dict[str, Any] | None = None, seed: int = 0):
        self.of, self.options, self.seed = of, options, seed

    @property
    def key(self) -> str:
        """Content key of the other describer, or of its table's texts, and the seed."""
        texts = sorted((str(unit), each.text) for unit, each in (self._table or {}).items())
        return self.key_of(of=self._other.key if self._other else texts, seed=self.seed)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the other describer."""
        return self._other.words if self._other else "the table"

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of the other describer; a table needs none."""
        return self._other.find_missing_models() if self._other else []

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of the other describer is missing."""
        if self._other:
            self._other.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the sources of the other describer or of the table."""
        return table_sources(self.of) if self._other is None else self._other.sources(dissection)

    @cached_property
    def _table(self) -> Mapping[Unit, Description] | None:
        """Descriptions by unit, if ``of`` is a table."""
        return {each.unit: each for each in read_descriptions(self.of)} if Path(self.of).exists() else None

    @cached_property
    def _other(self) -> Describer | None:
        return load_describer(self.of, **self.options or {}) if self._table is None else None

    def prepare(self, requests: Sequence[DescriptionRequest]) -> None:
        """Let the other describer prepare for the units whose descriptions are used."""
        if self._other is None:
            return
        others = [permute_units(dissection.active_units(), self.seed) for dissection, _ in requests]
        described = [
            (dissection, [permuted[unit] for unit in units if unit in permuted])
            for (dissection, units), permuted in zip(requests, others, strict=True)
        ]
        self._other.prepare([request for request in described if request[1]])

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield the description of another unit for each unit; the only active unit of a layer is a failure."""
        active = select_active(dissection, units)
        others = permute_units(dissection.active_units(), self.seed)
        described = [others[unit] for unit in active if unit in others]
        descriptions = self._describe_originally(dissection, described)
        for unit in active:
            yield (
                _relabel(unit, next(descriptions))
                if unit in others
                else DescriptionFailure(unit, f"{unit} is the only active unit of its layer")
            )

    def _describe_originally(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        if self._other is not None:
            return self._other.describe(dissection, units) if units else iter(())
        known = self._table or {}
        return (known.get(unit) or DescriptionFailure(unit, f"{self.of} has no description of it") for unit in units)


def permute_units(units: Sequence[Unit], seed: int) -> dict[Unit, Unit]:
    """Map each unit to another one, along one random cycle of all; empty for fewer than two units.

    >>> permute_units([Unit("a", 0), Unit("a", 1)], seed=0)
    {Unit(layer='a', index=0): Unit(layer='a', index=1), Unit(layer='a', index=1): Unit(layer='a', index=0)}
    """
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed} {unit}".encode()).digest())
    found = dict(zip(order, [*order[1:], *order[:1]], strict=True)) if len(order) > 1 else {}
    return {unit: found[unit] for unit in units if unit in found}


def _relabel(unit: Unit, description: Description | DescriptionFailure) -> Description | DescriptionFailure:
    """Return the result of another unit as that of this one."""
    if isinstance(description, DescriptionFailure):
        return DescriptionFailure(
            unit, f"{description.unit}, whose description it would have had: {description.reason}"
        )
    return replace(description, unit=unit)
