"""Statistics of a layer, accumulated in a pass over the probe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor

from milan.dissection.forward_blocks import BlockOutputs
from milan.dissection.pass_options import RankBy
from milan.dissection.running_statistics import (
    QuantileCandidates,
    RunningQuantile,
    RunningRange,
    bound_rank_error,
    bound_sample_size,
    compute_spare_capacity,
    count_top_values,
    sample_positions,
)
from milan.dissection.running_top_k import EnteringMaps, RunningTopK
from milan.storage.files import atomic_write, new_array
from milan.targets.layers import Layer

EXEMPLARS_FILE, STATISTICS_FILE = "exemplars.safetensors", "statistics.safetensors"
# The quantile of Network Dissection and Compositional Explanations. As a larger one than the default of dissections it
# costs no further pass, and its thresholds are stored, too.
HIGHER_QUANTILES = (0.995,)
_BYTES = 4  # of a float
SPARSE_RECORD_BYTES = 12  # of a value that is not 0 of a sparse layer, during the run


@dataclass(frozen=True)
class LayerPlan:
    """The statistics to compute for a layer.

    Attributes:
        layer: the layer.
        grid: height and width of its maps, for images of the probe's size.
        units: indices of the units.
        images: number of images of the probe.
        k: number of exemplars per unit.
        quantile: quantile of the mask thresholds.
        sampling_rate: fraction of all values on which the quantile is computed.
        key: content key of the result.
        nondeterministic: why the layer's activations are no function of the image; empty if they are.
        rank_by: pooled activation by which images are ranked as exemplars.
    """

    layer: Layer
    grid: tuple[int, int]
    units: tuple[int, ...]
    images: int
    k: int
    quantile: float
    sampling_rate: float = 1.0
    key: str = ""
    nondeterministic: str = ""
    rank_by: RankBy = "max"

    @property
    def has_one_value(self) -> bool:
        """Whether a unit has a single value in all images."""
        return self.images * math.prod(self.grid) == 1

    @property
    def max_values(self) -> int:
        """Largest number of values per unit on which the quantile is computed."""
        return bound_sample_size(self.images * math.prod(self.grid), self.sampling_rate)

    @property
    def buffer_bytes(self) -> int:
        """Memory of the running quantile; sparse layers have none."""
        if self.layer.is_sparse:
            return 0
        keep = count_top_values(self.quantile, self.max_values)
        return len(self.units) * (keep + compute_spare_capacity(keep)) * _BYTES

    @property
    def map_bytes(self) -> int:
        """Memory of the exemplars' maps; for sparse layers a few of their places, which are not counted."""
        return 0 if self.layer.is_sparse else len(self.units) * self.k * math.prod(self.grid) * _BYTES

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names of the pooled activations that are stored."""
        return ("mean", "max", "cls") if self.layer.has_class_token else ("mean", "max")

    @property
    def pooled_bytes(self) -> int:
        """Size of the pooled activations on disk, if the layer is not sparse."""
        return len(self.poolings) * self.images * len(self.units) * _BYTES

    def estimate_disk_bytes(self, active: float | None) -> int:
        """Return the space on disk that the run may take.

        Args:
            active: mean number of active units per place of a sparse layer; all units if it is unknown.
        """
        if not self.layer.is_sparse:
            # The values of the quantile and the last two checkpoints; the results are smaller.
            return self.pooled_bytes + 2 * self.map_bytes + 3 * self.buffer_bytes
        share = len(self.units) / self.layer.units
        # The spooled records, once more while they are sorted, and as much for the result.
        values = self.images * (math.prod(self.grid) + 1) * (self.layer.units if active is None else active) * share
        return int(3 * SPARSE_RECORD_BYTES * values)


@dataclass(frozen=True)
class BlockStatistics:
    """The contribution of a block of images to the statistics of a layer."""

    ids: Int[Tensor, " b"]
    pooled: dict[str, Float[Tensor, "b units"]]
    minima: Float[Tensor, "b units"]
    nonfinite: Bool[Tensor, "b units"]
    ranking: Float[Tensor, "b units"]
    maps: EnteringMaps
    candidates: QuantileCandidates


class LayerStatistics:
    """Top-k, quantile, range and pooled activations of one layer, for the images from ``start`` to ``stop``.

    The values of the quantile are mapped from a file in the folder ``scratch``, if there is one and they are many.
    """

    def __init__(self, plan: LayerPlan, start: int = 0, stop: int | None = None, scratch: Path | None = None):
        self.plan, self.start = plan, start
        self.stop = plan.images if stop is None else stop
        self.topk = RunningTopK(len(plan.units), plan.k, plan.grid)
        self.quantile = RunningQuantile(len(plan.units), plan.quantile, plan.max_values, scratch)
        self.range = RunningRange(len(plan.units))
        self.pooled: dict[str, np.memmap] = {}
        self._units = None if plan.units == tuple(range(plan.layer.units)) else torch.tensor(plan.units)

    def reduce(self, seen: BlockOutputs) -> BlockStatistics:
        """Return the contribution of a block; this changes nothing, so that several threads can compute it."""
        output = self._select_units(seen.maps[self.plan.layer.name])
        maps = _lay_out_by_unit(output).float()
        if maps.data_ptr() == output.data_ptr() and (self.quantile.takes_all or self.topk.takes_all):
            # Both accumulators keep the first maps whole; a single copy serves both.
            maps = maps.clone()
        flat = maps.flatten(2)
        # ``aminmax`` of an axis takes 15 times as long as the two together.
        finite = _FiniteValues(maps, means := flat.mean(2), flat.amin(2), flat.amax(2), ~means.isfinite())
        if finite.nonfinite.any():
            finite = _select_finite(maps)
        pooled = {"mean": finite.means.cpu(), "max": finite.maxima.cpu()}
        if "cls" in self.plan.poolings:
            pooled["cls"] = self._select_units(seen.class_tokens[self.plan.layer.name]).float().cpu()
        ranking = pooled[self.plan.rank_by]
        # Values that are not finite count as the lowest.
        ranking = ranking.masked_fill(ranking.isposinf(), -math.inf)
        return BlockStatistics(
            seen.ids,
            pooled,
            finite.minima.cpu(),
            finite.nonfinite.cpu(),
            ranking,
            self.topk.select_maps(seen.ids, ranking, finite.maps),
            self.quantile.select_in_maps(finite.maps.flatten(2), self._sample_places(seen.ids)),
        )

    def add(self, reduced: BlockStatistics) -> Bool[Tensor, " b"]:
        """Add the contribution of a block; return which of its images are now exemplars."""
        rows, pooled, ranking = reduced.ids.numpy() - self.start, reduced.pooled, reduced.ranking
        for name, values in pooled.items():
            self.pooled[name][rows] = values.masked_fill(values.isinf(), math.nan).numpy()
        self.quantile.add_candidates(reduced.candidates)
        self.range.add(reduced.minima, pooled["max"], reduced.nonfinite, pooled.get("cls"), ranking)
        return self.topk.add_selected(reduced.ids, ranking, reduced.maps)

    def merge(self, other: "LayerStatistics") -> None:
        """Add the statistics of another part of the probe, except for the pooled activations."""
        self.topk.merge(other.topk)
        self.quantile.merge(other.quantile)
        self.range.merge(other.range)

    def thresholds(self) -> dict[str, Float[Tensor, " units"]]:
        """Return the mask threshold of each unit, and exact ones of larger quantiles, by their names in the file."""
        found = {"thresholds": self.quantile.value().float()}
        for quantile in HIGHER_QUANTILES if self.plan.sampling_rate >= 1 else ():
            if quantile > self.plan.quantile:
                found[format_thresholds_name(quantile)] = self.quantile.value(quantile).float()
        return found

    def rank_error(self) -> float:
        """Return the largest error of the thresholds' rank; 0 if they are exact."""
        return (
            0.0
            if self.plan.sampling_rate >= 1
            else bound_rank_error(self.plan.quantile, self.quantile.count, len(self.plan.units))
        )

    def status(self, k: int) -> list[str]:
        """Return the status of each unit, as :meth:`RunningRange.status` defines it."""
        return self.range.status(k, self.plan.has_one_value)

    def image_ids(self) -> set[int]:
        """Return the images that are exemplars of some unit."""
        return self.topk.image_ids()

    def create_files(self, folder: Path) -> None:
        """Create the files of the pooled activations and allocate their space on disk."""
        shape = (self.stop - self.start, len(self.plan.units))
        for name in self.plan.poolings:
            self.pooled[name] = new_array(folder / format_pooled_file_name(name), np.float32, shape)

    def open_files(self, folder: Path) -> None:
        """Open the files that ``create_files`` created.

        Raises:
            ValueError, OSError: they do not exist, or have another shape or data type.
        """
        for name in self.plan.poolings:
            array = np.lib.format.open_memmap(folder / format_pooled_file_name(name), "r+")
            if array.shape != (self.stop - self.start, len(self.plan.units)) or array.dtype != np.float32:
                raise ValueError(f"{folder / format_pooled_file_name(name)} belongs to another dissection")
            self.pooled[name] = array

    def flush(self) -> None:
        """Flush the pooled activations to disk."""
        for array in self.pooled.values():
            array.flush()

    def write_results(
        self, folder: Path, parts: Sequence[Path], readable: Bool[Tensor, " images"], k: int
    ) -> list[str]:
        """Write the results, and return the names of the files.

        Args:
            folder: folder of the layer.
            parts: folders of the parts with their pooled activations, which are moved.
            readable: which images were read.
            k: number of exemplars per unit.
        """
        peaks, ids, maps = (tensor[:, :k].contiguous() for tensor in self.topk.ranked())
        with atomic_write(folder / EXEMPLARS_FILE) as partial:
            save_file({"activations": peaks, "ids": ids, "maps": maps}, partial)
        ranges = {f"range.{name}": tensor for name, tensor in self.range.state().items()}
        with atomic_write(folder / STATISTICS_FILE) as partial:
            save_file({**self.thresholds(), "units": torch.tensor(self.plan.units), **ranges}, partial)
        names = [format_pooled_file_name(name) for name in self.plan.poolings]
        for name in names:
            self._move_pooled(folder / name, [part / name for part in parts], readable)
        return [EXEMPLARS_FILE, STATISTICS_FILE, *names]

    def _move_pooled(self, file: Path, parts: Sequence[Path], readable: Bool[Tensor, " images"]) -> None:
        """Move the pooled activations of all parts to one file, and set those of unreadable images to NaN."""
        with atomic_write(file) as partial:
            if len(parts) == 1:
                parts[0].replace(partial)
                whole = np.lib.format.open_memmap(partial, "r+")
            else:
                whole = new_array(partial, np.float32, (self.plan.images, len(self.plan.units)))
                np.concatenate([np.load(part, mmap_mode="r", allow_pickle=False) for part in parts], out=whole)
            whole[~readable.numpy()] = np.nan
            whole.flush()

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`."""
        parts = {"topk": self.topk.state(), "quantile": self.quantile.state(), "range": self.range.state()}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.topk.restore(strip_prefix("topk.", state))
        self.quantile.restore(strip_prefix("quantile.", state))
        self.range.restore(strip_prefix("range.", state))

    def _select_units(self, values: Float[Tensor, "b units *grid"]) -> Float[Tensor, "b chosen *grid"]:
        return values if self._units is None else values[:, self._units.to(values.device)]

    def _sample_places(self, ids: Int[Tensor, " b"]) -> Bool[np.ndarray, "b places"] | None:
        """Return the places whose values the quantile is computed on; None for all."""
        if self.plan.sampling_rate >= 1:
            return None
        return sample_positions(ids.numpy(), math.prod(self.plan.grid), self.plan.sampling_rate)


def format_thresholds_name(quantile: float) -> str:
    """Return the name under which thresholds at a larger quantile than the dissection's are stored."""
    return f"thresholds_{quantile}"


def format_pooled_file_name(pooling: str) -> str:
    """Return the file name of pooled activations."""
    return f"pooled_{pooling}.npy"


def strip_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose names have a prefix, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _lay_out_by_unit(maps: Float[Tensor, "b units gh gw"]) -> Float[Tensor, "b units gh gw"]:
    """Return contiguous maps; those of tokens are transposed image by image, which is twice as fast as all at once."""
    batch, units, height, width = maps.shape
    if maps.device.type != "cpu" or maps.stride(1) != 1 or maps.stride(2) != width * maps.stride(3):
        return maps.contiguous()
    answer = maps.new_empty(maps.shape)
    for one, image in zip(answer.view(batch, units, height * width), maps.flatten(2), strict=True):
        one.copy_(image)
    return answer


class _FiniteValues(NamedTuple):
    """Maps with minus infinity in place of values that are not finite, and statistics of each map's finite values."""

    maps: Float[Tensor, "b units gh gw"]
    means: Float[Tensor, "b units"]
    minima: Float[Tensor, "b units"]
    maxima: Float[Tensor, "b units"]
    nonfinite: Bool[Tensor, "b units"]


def _select_finite(maps: Float[Tensor, "b units gh gw"]) -> _FiniteValues:
    finite = maps.isfinite()
    count = finite.sum((2, 3))
    # The mean of no value is 0 / 0 = NaN.
    means = maps.where(finite, torch.tensor(0.0)).sum((2, 3)) / count
    minima = maps.where(finite, torch.tensor(math.inf)).amin((2, 3))
    maps = maps.where(finite, torch.tensor(-math.inf))
    return _FiniteValues(maps, means, minima, maps.amax((2, 3)), count < math.prod(maps.shape[2:]))
