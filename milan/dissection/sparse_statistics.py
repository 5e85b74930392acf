"""Statistics of a sparse layer: the values that are not 0 are spooled in the pass, and evaluated unit by unit after it.

Most values of a dictionary's latents are 0: of 24,576 latents, 32 are active at a place. The pass appends one record
for each other value to a file; no array has a row per image and a column per unit. At the end the records are sorted by
unit, a bounded number of them at a time, so that memory depends neither on the number of images nor on that of units.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from safetensors.torch import save_file
from torch import Tensor

from milan.dissection.forward_blocks import BlockOutputs
from milan.dissection.layer_statistics import EXEMPLARS_FILE, STATISTICS_FILE, LayerPlan
from milan.dissection.running_statistics import RunningRange
from milan.dissection.sparse_files import ARRAYS, ArrayWriter
from milan.dissection.sparse_units import UnitRecords, UnitStatistics, join_statistics, summarize_units
from milan.errors import BadInput
from milan.storage.files import atomic_write

# A value that is not 0, and its unit, image and place as one number.
RECORD = np.dtype([("key", "<i8"), ("value", "<f4")])
_SPOOL = "records.bin"
# Records that are sorted at a time; they and what is computed from them take about 300 MB.
_MOST_RECORDS = 2**21
_READ_RECORDS = 2**19


@dataclass(frozen=True)
class SparseBlock:
    """The records of a block of images."""

    ids: Int[Tensor, " b"]
    records: np.ndarray


class SparseLayerStatistics:
    """The statistics of one sparse layer, for the images from ``start`` to ``stop``; see :class:`LayerStatistics`.

    Attributes:
        plan: the statistics to compute.
        range: smallest and largest value of each unit; empty until the results are written.
    """

    def __init__(self, plan: LayerPlan, start: int = 0, stop: int | None = None, scratch: Path | None = None):
        self.plan, self.start = plan, start
        self.stop = plan.images if stop is None else stop
        self.range = RunningRange(0)
        self._record_count = 0
        self._folder = Path()
        self._exemplar_ids: set[int] | None = None
        # Row of each unit of the layer; -1 for one that is not dissected.
        self._rows = torch.full((plan.layer.units,), -1)
        self._rows[list(plan.units)] = torch.arange(len(plan.units))

    def reduce(self, seen: BlockOutputs) -> SparseBlock:
        """Return the records of a block; this changes nothing, so that several threads can compute it."""
        found = seen.sparse[self.plan.layer.name]
        rows = self._rows[found.units.cpu()]
        kept = rows >= 0
        images, places = seen.ids[found.images.cpu()[kept]], found.places.cpu()[kept]
        records = np.empty(len(images), RECORD)
        records["key"] = (rows[kept] * self.plan.images + images) * (self._places + 1) + places
        records["value"] = found.values.cpu()[kept]
        return SparseBlock(seen.ids, records)

    def add(self, reduced: SparseBlock) -> Bool[Tensor, " b"]:
        """Append the records of a block; return which of its images may be exemplars, which are all."""
        try:
            with (self._folder / _SPOOL).open("ab") as file:
                reduced.records.tofile(file)
        except OSError as error:
            raise BadInput(
                f"cannot store the activations of {self.plan.layer.name} in {self._folder}: {error.strerror}; free"
                " some, or choose another folder"
            ) from None
        self._record_count += len(reduced.records)
        return torch.ones(len(reduced.ids), dtype=torch.bool)

    def merge(self, other: "SparseLayerStatistics") -> None:
        """Add the statistics of another part of the probe, whose records are read from its folder."""
        self._record_count += other._record_count

    def image_ids(self) -> set[int]:
        """Return the images that are exemplars of some unit; before the results are written, all that may be."""
        return set(range(self.start, self.stop)) if self._exemplar_ids is None else self._exemplar_ids

    def rank_error(self) -> float:
        """Return the largest error of the thresholds' rank, which are exact."""
        return 0.0

    def status(self, k: int) -> list[str]:
        """Return the status of each unit, as :meth:`RunningRange.status` defines it."""
        return self.range.status(k, self.plan.has_one_value)

    def create_files(self, folder: Path) -> None:
        """Create the file of the records."""
        self._folder = folder
        (folder / _SPOOL).write_bytes(b"")

    def open_files(self, folder: Path) -> None:
        """Use the file that ``create_files`` created.

        Raises:
            OSError: it does not exist.
        """
        self._folder = folder
        (folder / _SPOOL).stat()

    def flush(self) -> None:
        """Do nothing: records are written at once."""

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`."""
        return {"records": torch.tensor(self._record_count)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state: records that were written after it are dropped.

        Raises:
            ValueError: the file has fewer records.
        """
        self._record_count = int(state["records"])
        size = self._record_count * RECORD.itemsize
        if (self._folder / _SPOOL).stat().st_size < size:
            raise ValueError(f"{self._folder / _SPOOL} is too short")
        with (self._folder / _SPOOL).open("r+b") as file:
            file.truncate(size)

    def write_results(
        self, folder: Path, parts: Sequence[Path], readable: Bool[Tensor, " images"], k: int
    ) -> list[str]:
        """Write the results of all parts, and return the names of the files.

        Args:
            folder: folder of the layer.
            parts: folders of the parts with their records.
            readable: which images were read.
            k: number of exemplars per unit.
        """
        images = readable.nonzero().flatten().numpy()
        names = [name for name in ARRAYS if name != "pooled_cls" or self.plan.layer.has_class_token]
        writers = {name: ArrayWriter(folder / f"{name}.npy", ARRAYS[name], self._folder) for name in names}
        found = []
        for chosen, records in self._iter_units([part / _SPOOL for part in parts]):
            chunk = UnitRecords.from_sorted(records["key"], records["value"], self.plan, chosen)
            statistics = summarize_units(chunk, images, k, self.plan)
            for name, writer in writers.items():
                writer.append(statistics.arrays[name])
            found.append(replace(statistics, arrays={}))
        for writer in writers.values():
            writer.close()
        self._write_statistics(folder, join_statistics(found))
        return [EXEMPLARS_FILE, STATISTICS_FILE, *(f"{name}.npy" for name in writers)]

    def _write_statistics(self, folder: Path, found: UnitStatistics) -> None:
        self.range = RunningRange(len(self.plan.units))
        self.range.restore(found.range)
        self._exemplar_ids = set(found.ids.unique().tolist())
        exemplars = {"activations": found.peaks, "ids": found.ids, "map_offsets": _offsets(found.map_lengths)}
        with atomic_write(folder / EXEMPLARS_FILE) as partial:
            save_file(exemplars, partial)
        statistics = {f"range.{name}": tensor for name, tensor in found.range.items()}
        statistics |= {"thresholds": found.thresholds, "pooled_offsets": _offsets(found.pooled_lengths)}
        with atomic_write(folder / STATISTICS_FILE) as partial:
            save_file({"units": torch.tensor(self.plan.units), **statistics}, partial)

    @property
    def _places(self) -> int:
        return math.prod(self.plan.grid)

    @property
    def _keys_per_unit(self) -> int:
        return self.plan.images * (self._places + 1)

    def _iter_units(self, files: Sequence[Path]) -> Iterator[tuple[range, np.ndarray]]:
        """Yield ranges of units and their records, sorted by unit, image and place."""
        counts = np.zeros(len(self.plan.units), np.int64)
        if self._record_count > _MOST_RECORDS:
            for records in _read(files):
                counts += np.bincount(records["key"] // self._keys_per_unit, minlength=len(counts))
        bounds = _split(counts, _MOST_RECORDS)
        if len(bounds) > 2:
            files = self._partition(files, np.array(bounds[1:-1]) * self._keys_per_unit)
            for first, last, file in zip(bounds[:-1], bounds[1:], files, strict=True):
                yield range(first, last), _read_sorted([file])
                file.unlink()
        else:
            yield range(len(counts)), _read_sorted(files)

    def _partition(self, files: Sequence[Path], bounds: Int[np.ndarray, " parts"]) -> list[Path]:
        """Distribute the records to files of ranges of keys."""
        parts = [self._folder / f"{_SPOOL}.{number}" for number in range(len(bounds) + 1)]
        for part in parts:
            part.write_bytes(b"")
        for records in _read(files):
            which = np.searchsorted(bounds, records["key"], side="right")
            order = np.argsort(which, kind="stable")
            numbers, starts = np.unique(which[order], return_index=True)
            for number, group in zip(numbers, np.split(records[order], starts[1:]), strict=True):
                with parts[number].open("ab") as file:
                    group.tofile(file)
        return parts


def _read(files: Sequence[Path]) -> Iterator[np.ndarray]:
    for file in files:
        with file.open("rb") as opened:
            while len(records := np.fromfile(opened, RECORD, _READ_RECORDS)):
                yield records


def _read_sorted(files: Sequence[Path]) -> np.ndarray:
    records = np.concatenate([np.empty(0, RECORD), *_read(files)])
    return records[np.argsort(records["key"])]


def _split(counts: Int[np.ndarray, " units"], most: int) -> list[int]:
    """Return bounds of ranges of units with at most so many records each, or one unit.

    >>> _split(np.array([3, 3, 9, 1, 2, 2]), 5), _split(np.array([0, 0]), 5)
    ([0, 1, 2, 3, 6], [0, 2])
    """
    bounds, total = [0], 0
    for unit, count in enumerate(counts.tolist()):
        if total + count > most and unit > bounds[-1]:
            bounds.append(unit)
            total = 0
        total += count
    return [*bounds, len(counts)]


def _offsets(lengths: Int[Tensor, " rows"]) -> Int[Tensor, " rows_plus_one"]:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
