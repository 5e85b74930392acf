"""What is kept of one layer while the probe streams by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.dissection.forward_blocks import BlockOutputs
from milan.dissection.running_statistics import (
    QuantileCandidates,
    RunningQuantile,
    RunningRange,
    RunningTopK,
    bound_rank_error,
    bound_sample_size,
    compute_spare_capacity,
    count_top_values,
    sample_positions,
)
from milan.storage.files import new_array
from milan.targets.layers import Layer

_BYTES = 4  # of a float


@dataclass(frozen=True)
class LayerPlan:
    """What is to be found out of one layer."""

    layer: Layer
    grid: tuple[int, int]  # of its maps, for images of the probe's size
    units: tuple[int, ...]
    images: int
    k: int
    quantile: float
    sampling_rate: float = 1.0  # share of all values that the quantile is taken of
    key: str = ""  # stands for all that the result depends on
    nondeterministic: str = ""  # why the layer's values are no function of the image, where they are not

    @property
    def max_values(self) -> int:
        """How many values of each unit the quantile is taken of, at most."""
        return bound_sample_size(self.images * math.prod(self.grid), self.sampling_rate)

    @property
    def buffer_bytes(self) -> int:
        """What the running quantile takes."""
        keep = count_top_values(self.quantile, self.max_values)
        return len(self.units) * (keep + compute_spare_capacity(keep)) * _BYTES

    @property
    def map_bytes(self) -> int:
        """What the maps of the exemplars take."""
        return len(self.units) * self.k * math.prod(self.grid) * _BYTES

    @property
    def poolings(self) -> tuple[str, ...]:
        """The pooled activations that are written out."""
        return ("mean", "max", "cls") if self.layer.has_class_token else ("mean", "max")

    @property
    def pooled_bytes(self) -> int:
        """What the pooled activations take on disk."""
        return len(self.poolings) * self.images * len(self.units) * _BYTES


@dataclass(frozen=True)
class BlockStatistics:
    """What one block of images adds to a record."""

    ids: Int[Tensor, " b"]
    pooled: dict[str, Float[Tensor, "b units"]]
    minima: Float[Tensor, "b units"]
    nonfinite: Bool[Tensor, "b units"]
    maps: Float[Tensor, "b units gh gw"]
    candidates: QuantileCandidates


class LayerStatistics:
    """Top-k, quantile, range and pooled activations of one layer, for the images from ``start`` to ``stop``."""

    def __init__(self, plan: LayerPlan, start: int = 0, stop: int | None = None):
        self.plan, self.start = plan, start
        self.stop = plan.images if stop is None else stop
        self.topk = RunningTopK(len(plan.units), plan.k, plan.grid)
        self.quantile = RunningQuantile(len(plan.units), plan.quantile, plan.max_values)
        self.range = RunningRange(len(plan.units))
        self.pooled: dict[str, np.memmap] = {}
        self._units = None if plan.units == tuple(range(plan.layer.units)) else torch.tensor(plan.units)

    def reduce(self, seen: BlockOutputs) -> BlockStatistics:
        """What ``add`` needs of a block; changes nothing, so that several threads can do it."""
        maps = self._select_units(seen.maps[self.plan.layer.name])
        flat = maps.flatten(2)
        means = flat.mean(2)
        lows, peaks = flat.aminmax(dim=2)
        odd = ~means.isfinite()
        if odd.any():
            maps, means, lows, peaks, odd = _split_finite(maps)
        pooled = {"mean": means.cpu(), "max": peaks.cpu()}
        if "cls" in self.plan.poolings:
            pooled["cls"] = self._select_units(seen.class_tokens[self.plan.layer.name]).cpu()
        return BlockStatistics(
            seen.ids,
            pooled,
            lows.cpu(),
            odd.cpu(),
            maps,
            self.quantile.select_candidates(self._sample_values(seen.ids, maps)),
        )

    def add(self, reduced: BlockStatistics) -> Bool[Tensor, " b"]:
        """Takes a block in; says which of its images are now exemplars."""
        rows = reduced.ids.numpy() - self.start
        for name, values in reduced.pooled.items():
            self.pooled[name][rows] = values.masked_fill(values.isinf(), math.nan).numpy()
        self.quantile.add_candidates(reduced.candidates)
        self.range.add(reduced.minima, reduced.pooled["max"], reduced.nonfinite)
        return self.topk.add(reduced.ids, reduced.pooled["max"], reduced.maps)

    def merge(self, other: "LayerStatistics") -> None:
        """Takes in another part of the probe; the pooled activations are left where they are."""
        self.topk.merge(other.topk)
        self.quantile.merge(other.quantile)
        self.range.merge(other.range)

    def thresholds(self) -> Float[Tensor, " units"]:
        """The activation above which a place belongs to a mask."""
        return self.quantile.value()

    def rank_error(self) -> float:
        """How far the thresholds' rank may be off: 0 where they are exact."""
        return (
            0.0
            if self.plan.sampling_rate >= 1
            else bound_rank_error(self.plan.quantile, self.quantile.count, len(self.plan.units))
        )

    def status(self, k: int) -> list[str]:
        """Of each unit: ``invalid`` without any finite value; ``dead`` if its value never changes; ``sparse`` if it
        rests at
        zero in all but fewer than ``k`` images; else ``ok``. A unit that also goes below zero does not rest there."""
        low, high = self.range.least, self.range.most
        one_value = self.plan.images * math.prod(self.plan.grid) == 1  # nothing can be said of its change
        dead = (low == high) & ((high == 0) | (not one_value))
        sparse = (low >= 0) & (self.range.positive_images < k)
        words = np.select([high.isneginf().numpy(), dead.numpy(), sparse.numpy()], ["invalid", "dead", "sparse"], "ok")
        return [str(word) for word in words]

    def create_pooled_files(self, folder: Path) -> None:
        """Makes the files of the pooled activations, with their space taken on disk."""
        shape = (self.stop - self.start, len(self.plan.units))
        for name in self.plan.poolings:
            self.pooled[name] = new_array(folder / format_pooled_file_name(name), np.float32, shape)

    def open_pooled_files(self, folder: Path) -> None:
        """Goes on with files that ``create_pooled_files`` made.

        Raises:
            ValueError, OSError: they are not there, or not as they should be.
        """
        for name in self.plan.poolings:
            array = np.lib.format.open_memmap(folder / format_pooled_file_name(name), "r+")
            if array.shape != (self.stop - self.start, len(self.plan.units)) or array.dtype != np.float32:
                raise ValueError(f"{folder / format_pooled_file_name(name)} is of another dissection")
            self.pooled[name] = array

    def flush(self) -> None:
        """Sees to it that pooled activations are on disk."""
        for array in self.pooled.values():
            array.flush()

    def mark_unreadable(self, rows: Sequence[int]) -> None:
        """Marks images that could not be read."""
        for array in self.pooled.values():
            array[np.asarray(rows, int)] = np.nan

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` goes on."""
        parts = {"topk": self.topk.state(), "quantile": self.quantile.state(), "range": self.range.state()}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a ``state``."""
        self.topk.restore(strip_prefix("topk.", state))
        self.quantile.restore(strip_prefix("quantile.", state))
        self.range.restore(strip_prefix("range.", state))

    def _select_units(self, values: Float[Tensor, "b units *grid"]) -> Float[Tensor, "b chosen *grid"]:
        return values if self._units is None else values[:, self._units.to(values.device)]

    def _sample_values(
        self, ids: Int[Tensor, " b"], maps: Float[Tensor, "b units gh gw"]
    ) -> Float[Tensor, "units values"]:
        """The values that the quantile is taken of."""
        values = maps.transpose(0, 1).flatten(1)
        if self.plan.sampling_rate >= 1:
            return values
        return values[
            :,
            torch.from_numpy(
                sample_positions(ids.numpy(), math.prod(self.plan.grid), self.plan.sampling_rate).ravel()
            ).to(values.device),
        ]


def format_pooled_file_name(pooling: str) -> str:
    """The file of pooled activations."""
    return f"pooled_{pooling}.npy"


def strip_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands under names that begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _split_finite(maps: Float[Tensor, "b units gh gw"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Maps with minus infinity for what is not finite; means, smallest and largest of the finite values; where others
    occur.
    """
    finite = maps.isfinite()
    count = finite.sum((2, 3))
    means = maps.where(finite, torch.tensor(0.0)).sum((2, 3)) / count  # 0 / 0 is NaN where there is none
    lows = maps.where(finite, torch.tensor(math.inf)).amin((2, 3))
    maps = maps.where(finite, torch.tensor(-math.inf))
    return maps, means, lows, maps.amax((2, 3)), count < math.prod(maps.shape[2:])
