"""Descriptions from a table, whoever wrote it: so that they stand beside those of describers, with the same floors and
scores.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.results.catalogue import description_to_row, read_descriptions, table_sources
from milan.units import Description, Unit


class Imported(Describer):
    """Says of each unit what a table says of it; a living unit that is not in the table is a failure, told as such.

    A score that the table does not tell is 0. Nobody knows which images the table's author looked at: where images are
    kept from describers, these may have been seen.

    Args:
        table: a folder of describe.py, or a csv, jsonl or parquet file of its kind, or a published one that
            ``milan.results.published_tables`` knows.
        layer: of the units, where a published table does not say and its file's name does not tell.
    """

    name: ClassVar[str] = "imported"
    version: ClassVar[int] = 1
    words = "the table"

    def __init__(self, table: str = "", layer: str = ""):
        self.table, self.layer = table, layer

    @property
    def key(self) -> str:
        said = sorted((str(unit), description_to_row(each)) for unit, each in self._descriptions.items())
        return self.key_of(said=[row for _, row in said])

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """What the table says that it was made from, if it says so."""
        return table_sources(self.table)

    @cached_property
    def _descriptions(self) -> Mapping[Unit, Description]:
        if not self.table:
            raise BadInput("the describer imported has no table; give one with --settings.table FILE")
        found = read_descriptions(self.table, self.layer)
        return {each.unit: each if math.isfinite(each.score) else replace(each, score=0.0) for each in found}

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        return (
            self._descriptions.get(unit) or DescriptionFailure(unit, f"{self.table} says nothing of it")
            for unit in select_active(dissection, units)
        )
