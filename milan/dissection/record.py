"""What is kept of one layer while the probe streams by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.dissection.passes import Seen
from milan.dissection.statistics import (
    RunningQuantile,
    RunningRange,
    RunningTopK,
    Sifted,
    from_top,
    rank_error,
    sample_most,
    sampled,
    spare,
)
from milan.storage import new_array
from milan.targets import Layer

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
    rate: float = 1.0  # share of all values that the quantile is taken of
    key: str = ""  # stands for all that the result depends on
    nondeterministic: str = ""  # why the layer's values are no function of the image, where they are not

    @property
    def values(self) -> int:
        """How many values of each unit the quantile is taken of, at most."""
        return sample_most(self.images * math.prod(self.grid), self.rate)

    @property
    def buffer_bytes(self) -> int:
        """What the running quantile takes."""
        keep = from_top(self.quantile, self.values)
        return len(self.units) * (keep + spare(keep)) * _BYTES

    @property
    def map_bytes(self) -> int:
        """What the maps of the exemplars take."""
        return len(self.units) * self.k * math.prod(self.grid) * _BYTES

    @property
    def poolings(self) -> tuple[str, ...]:
        """The pooled activations that are written out."""
        return ("mean", "max", "cls") if self.layer.cls else ("mean", "max")

    @property
    def pooled_bytes(self) -> int:
        """What the pooled activations take on disk."""
        return len(self.poolings) * self.images * len(self.units) * _BYTES


@dataclass(frozen=True)
class Reduced:
    """What one block of images adds to a record."""

    ids: Int[Tensor, " b"]
    pooled: dict[str, Float[Tensor, "b units"]]
    lows: Float[Tensor, "b units"]
    odd: Bool[Tensor, "b units"]
    maps: Float[Tensor, "b units gh gw"]
    sifted: Sifted


class LayerRecord:
    """Top-k, quantile, range and pooled activations of one layer, for the images from ``start`` to ``stop``."""

    def __init__(self, plan: LayerPlan, start: int = 0, stop: int | None = None):
        self.plan, self.start = plan, start
        self.stop = plan.images if stop is None else stop
        self.topk = RunningTopK(len(plan.units), plan.k, plan.grid)
        self.quantile = RunningQuantile(len(plan.units), plan.quantile, plan.values)
        self.range = RunningRange(len(plan.units))
        self.pooled: dict[str, np.memmap] = {}
        self._units = None if plan.units == tuple(range(plan.layer.units)) else torch.tensor(plan.units)

    def reduce(self, seen: Seen) -> Reduced:
        """What ``take`` needs of a block; changes nothing, so that several threads can do it."""
        maps = self._own(seen.maps[self.plan.layer.name])
        flat = maps.flatten(2)
        means = flat.mean(2)
        lows, peaks = flat.aminmax(dim=2)
        odd = ~means.isfinite()
        if odd.any():
            maps, means, lows, peaks, odd = _finite(maps)
        pooled = {"mean": means.cpu(), "max": peaks.cpu()}
        if "cls" in self.plan.poolings:
            pooled["cls"] = self._own(seen.cls[self.plan.layer.name]).cpu()
        return Reduced(seen.ids, pooled, lows.cpu(), odd.cpu(), maps, self.quantile.sift(self._values(seen.ids, maps)))

    def take(self, reduced: Reduced) -> Bool[Tensor, " b"]:
        """Takes a block in; says which of its images are now exemplars."""
        rows = reduced.ids.numpy() - self.start
        for name, values in reduced.pooled.items():
            self.pooled[name][rows] = values.masked_fill(values.isinf(), math.nan).numpy()
        self.quantile.take(reduced.sifted)
        self.range.add(reduced.lows, reduced.pooled["max"], reduced.odd)
        return self.topk.add(reduced.ids, reduced.pooled["max"], reduced.maps)

    def merge(self, other: "LayerRecord") -> None:
        """Takes in another part of the probe; the pooled activations are left where they are."""
        self.topk.merge(other.topk)
        self.quantile.merge(other.quantile)
        self.range.merge(other.range)

    def thresholds(self) -> Float[Tensor, " units"]:
        """The activation above which a place belongs to a mask."""
        return self.quantile.value()

    def rank_error(self) -> float:
        """How far the thresholds' rank may be off: 0 where they are exact."""
        return 0.0 if self.plan.rate >= 1 else rank_error(self.plan.quantile, self.quantile.count, len(self.plan.units))

    def status(self, k: int) -> list[str]:
        """Of each unit: ``invalid`` without any finite value; ``dead`` if its value never changes; ``sparse`` if it rests at
        zero in all but fewer than ``k`` images; else ``ok``. A unit that also goes below zero does not rest there."""
        low, high = self.range.least, self.range.most
        one_value = self.plan.images * math.prod(self.plan.grid) == 1  # nothing can be said of its change
        dead = (low == high) & ((high == 0) | (not one_value))
        sparse = (low >= 0) & (self.range.positive < k)
        words = np.select([high.isneginf().numpy(), dead.numpy(), sparse.numpy()], ["invalid", "dead", "sparse"], "ok")
        return [str(word) for word in words]

    def make_pooled(self, folder: Path) -> None:
        """Makes the files of the pooled activations, with their space taken on disk."""
        shape = (self.stop - self.start, len(self.plan.units))
        for name in self.plan.poolings:
            self.pooled[name] = new_array(folder / pooled_name(name), np.float32, shape)

    def open_pooled(self, folder: Path) -> None:
        """Goes on with files that ``make_pooled`` made.

        Raises:
            ValueError, OSError: they are not there, or not as they should be.
        """
        for name in self.plan.poolings:
            array = np.lib.format.open_memmap(folder / pooled_name(name), "r+")
            if array.shape != (self.stop - self.start, len(self.plan.units)) or array.dtype != np.float32:
                raise ValueError(f"{folder / pooled_name(name)} is of another dissection")
            self.pooled[name] = array

    def flush(self) -> None:
        """Sees to it that pooled activations are on disk."""
        for array in self.pooled.values():
            array.flush()

    def blank(self, rows: Sequence[int]) -> None:
        """Marks images that could not be read."""
        for array in self.pooled.values():
            array[np.asarray(rows, int)] = np.nan

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` goes on."""
        parts = {"topk": self.topk.state(), "quantile": self.quantile.state(), "range": self.range.state()}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a ``state``."""
        self.topk.restore(under("topk.", state))
        self.quantile.restore(under("quantile.", state))
        self.range.restore(under("range.", state))

    def _own(self, values: Float[Tensor, "b units *grid"]) -> Float[Tensor, "b chosen *grid"]:
        return values if self._units is None else values[:, self._units.to(values.device)]

    def _values(self, ids: Int[Tensor, " b"], maps: Float[Tensor, "b units gh gw"]) -> Float[Tensor, "units values"]:
        """The values that the quantile is taken of."""
        values = maps.transpose(0, 1).flatten(1)
        if self.plan.rate >= 1:
            return values
        return values[:, torch.from_numpy(sampled(ids.numpy(), math.prod(self.plan.grid), self.plan.rate).ravel()).to(values.device)]


def pooled_name(pooling: str) -> str:
    """The file of pooled activations."""
    return f"pooled_{pooling}.npy"


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands under names that begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _finite(maps: Float[Tensor, "b units gh gw"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Maps with minus infinity for what is not finite; means, smallest and largest of the finite values; where others occur."""
    finite = maps.isfinite()
    count = finite.sum((2, 3))
    means = maps.where(finite, torch.tensor(0.0)).sum((2, 3)) / count  # 0 / 0 is NaN where there is none
    lows = maps.where(finite, torch.tensor(math.inf)).amin((2, 3))
    maps = maps.where(finite, torch.tensor(-math.inf))
    return maps, means, lows, maps.amax((2, 3)), count < math.prod(maps.shape[2:])
