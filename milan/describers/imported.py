"""Descriptions from a table, to compare them with those of describers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.dissection.dissection import Dissection
from milan.errors import BadInput
from milan.probes import Probe
from milan.results.catalogue import read_descriptions, table_sources
from milan.results.description_rows import description_to_row
from milan.targets.target import Target
from milan.units import Description, Unit


class Imported(Describer):
    """Gives each unit the description that a table has of it; an active unit that is not in the table is a failure.

    A score that the table lacks is 0. It is unknown which images the table's author used: experiments that hide images
    from describers cannot hide them from a table.

    Args:
        table: a folder of describe.py, or a csv, jsonl or parquet file of its kind, or a published one that
            ``milan.results.published_tables`` knows.
        layer: layer of the units, if neither a published table nor its file's name states it.
    """

    name: ClassVar[str] = "imported"
    version: ClassVar[int] = 1
    words = "the table"

    def __init__(self, table: str = "", layer: str = ""):
        self.table, self.layer = table, layer

    @property
    def key(self) -> str:
        """Content key of the table's rows, in the order of the units; the path does not count."""
        rows = sorted((str(unit), description_to_row(each)) for unit, each in self._descriptions.items())
        return self.key_of(said=[row for _, row in rows])

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Read the table, so that an error in it is reported before the run."""
        _ = self._descriptions  # reads the table

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the sources that the table states."""
        return table_sources(self.table)

    @cached_property
    def _descriptions(self) -> Mapping[Unit, Description]:
        if not self.table:
            raise BadInput("the describer imported has no table; give one with --settings.table FILE")
        found = read_descriptions(self.table, self.layer)
        return {each.unit: each if math.isfinite(each.score) else replace(each, score=0.0) for each in found}

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield the table's description of each active unit, or a failure if it has none."""
        return (
            self._descriptions.get(unit) or DescriptionFailure(unit, f"{self.table} has no description of it")
            for unit in select_active(dissection, units)
        )
