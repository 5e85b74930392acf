"""Accumulators for a pass over a probe: exact quantiles and ranges, mergeable and independent of order."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64
from torch import Tensor

from milan.errors import BadInput
from milan.storage.files import new_scratch_array

# Probability that the rank error of a sampled threshold of any unit exceeds the stated one.
FAILURE_PROBABILITY = 1e-6
_CHUNK_VALUES = 2**20  # values of a buffer that are copied at a time
_MIN_SPARE = 1024  # smallest free capacity, in values per unit, between two compactions


class QuantileCandidates(NamedTuple):
    """Values that may determine a quantile, image by image and within it unit by unit, ``counts`` of each.

    They are selected out of ``value_count`` values per unit.
    """

    counts: Int[np.ndarray, "images units"]
    values: Float[np.ndarray, " some"]
    value_count: int


class RunningQuantile:
    """A quantile of all values of each unit: equal to ``numpy.quantile`` (linear) in float64, independent of the order.

    Only the top fraction of at most ``max_values`` values can determine a high quantile; the others are dropped as soon
    as enough larger ones are known, so nearly all values cost one comparison. NaN counts as minus infinity.

    Args:
        units: number of units.
        quantile: the quantile, from 0 to 1.
        max_values: largest number of values per unit.
        scratch: folder for the values, as ``new_scratch_array`` takes it; None to have them in memory.
    """

    def __init__(self, units: int, quantile: float, max_values: int, scratch: Path | None = None):
        self.units, self.quantile, self.most = units, quantile, max_values
        self.count = 0
        self._keep_count = count_top_values(quantile, max_values)
        self._capacity = self._keep_count + compute_spare_capacity(self._keep_count)
        shape = units, self._capacity
        self._buffer = np.empty(shape, np.float32) if scratch is None else new_scratch_array(scratch, np.float32, shape)
        self._buffer.fill(-np.inf)
        self._fill_counts = np.zeros(units, np.int64)
        self._floor = torch.full((units, 1), -math.inf)  # what a value must exceed to matter

    def add(self, values: Float[Tensor, "units new"]) -> None:
        """Add values, the same number for each unit.

        Raises:
            BadInput: these are more than ``most`` values in all.
        """
        self.add_candidates(self.select_candidates(values))

    def select_candidates(self, values: Float[Tensor, "units new"]) -> QuantileCandidates:
        """Return the values that may determine the quantile; this changes nothing and may run in another thread."""
        return self.select_in_maps(values[None])

    def select_in_maps(
        self, maps: Float[Tensor, "images units new"], sample: Bool[np.ndarray, "images new"] | None = None
    ) -> QuantileCandidates:
        """Return the values of maps that may determine the quantile, out of a sample of their places or out of all.

        As long as the accumulator ``takes_all``, these are a view of the maps where all values may determine it.
        """
        value_count = maps.shape[0] * maps.shape[2] if sample is None else int(sample.sum())
        # An outdated floor is lower, so it selects too many values, but never too few.
        floor = self._floor
        if maps.device.type != "cpu":
            above = maps > floor.to(maps.device)
            if sample is not None:
                above &= torch.from_numpy(sample).to(maps.device)[:, None]
            return QuantileCandidates(above.sum(2).cpu().numpy(), maps[above].float().cpu().numpy(), value_count)
        array = maps.float().contiguous().numpy()
        found = array > floor.numpy()
        if sample is not None:
            found &= sample[:, None]
        counts, values = _count_in_rows(found), array.ravel()
        if counts.sum() == array.size and floor.isneginf().all():
            return QuantileCandidates(counts, values, value_count)
        return QuantileCandidates(counts, values.take(np.flatnonzero(found)), value_count)

    @property
    def takes_all(self) -> bool:
        """Whether any value may still determine the quantile of each unit, as at the start."""
        return bool(self._floor.isneginf().all())

    def add_candidates(self, candidates: QuantileCandidates) -> None:
        """Add the values that were selected."""
        self._add_count(candidates.value_count)
        counts, values = candidates.counts, candidates.values
        if len(values) and (counts == counts[0, 0]).all():
            counts, values, _ = self._append_whole(values.reshape(*counts.shape, -1))
        self._append(counts, values)

    def merge(self, other: "RunningQuantile") -> None:
        """Add the values of another accumulator."""
        self._add_count(other.count)
        for part in torch.from_numpy(other._buffer).split(max(1, _CHUNK_VALUES // max(self.units, 1)), 1):
            self.add_candidates(self.select_candidates(part)._replace(value_count=0))

    def value(self, quantile: float | None = None) -> Float[Tensor, " units"]:
        """Return the quantiles in float64; minus infinity for too few finite values, NaN without any value.

        Args:
            quantile: a larger quantile than the accumulator's, which the same values determine.
        """
        if not self.count:
            return torch.full((self.units,), math.nan, dtype=torch.float64)
        place = max(self.quantile, quantile or 0.0) * (self.count - 1)
        # Ranks are counted from the top.
        below = self.count - 1 - math.floor(place)
        above = max(below - 1, 0)
        low, high = self._capacity - 1 - below, self._capacity - 1 - above
        ends = np.empty((self.units, 2), np.float64)
        step = max(1, _CHUNK_VALUES // self._capacity)
        for first in range(0, self.units, step):
            ranked = np.partition(self._buffer[first : first + step], sorted({low, high}), axis=1)
            ends[first : first + step] = ranked[:, [low, high]]
        return torch.from_numpy(interpolate_quantile(ends[:, 0], ends[:, 1], place % 1))

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`; the next values change them."""
        full = np.flatnonzero(self._fill_counts > self._keep_count)
        for rows in np.array_split(full, -(-len(full) * self._capacity // _CHUNK_VALUES) or 1):
            self._compact(rows)
        fill, count = torch.from_numpy(self._fill_counts), torch.tensor(self.count)
        return self._view_kept_values() | {"fill": fill, "floor": self._floor, "count": count}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self._buffer[:, self._keep_count :] = -np.inf
        for name, part in self._view_kept_values().items():
            part.copy_(state[name])
        self._fill_counts, self._floor, self.count = (
            state["fill"].numpy().copy(),
            state["floor"].clone(),
            int(state["count"]),
        )

    def _view_kept_values(self) -> dict[str, Tensor]:
        """Return views of the values that are kept, of some units each, since a file's writer copies one at a time."""
        kept = torch.from_numpy(self._buffer[:, : self._keep_count])
        return {f"kept.{at}": part for at, part in enumerate(kept.split(max(1, _CHUNK_VALUES // self._keep_count)))}

    def _add_count(self, new: int) -> None:
        self.count += new
        if self.count > self.most:
            raise BadInput(
                f"{self.count} values per unit exceed max_values={self.most}; give the total number as max_values"
            )

    def _append_whole(self, maps: Float[np.ndarray, "images units places"]) -> QuantileCandidates:
        """Append all values of images as long as there is room; return those of the others that may matter then.

        The first values of a pass are many, so that their places in the buffer take longer to compute than to fill.
        """
        fill, places, done = self._fill_counts, maps.shape[2], 0
        while done < len(maps) and fill.min() == fill.max() <= self._capacity - places:
            self._buffer[:, fill[0] : fill[0] + places] = maps[done]
            fill += places
            done += 1
        if done < len(maps):
            self._compact(np.flatnonzero(fill > self._keep_count))
        return self.select_in_maps(torch.from_numpy(maps[done:]))

    def _append(self, counts: Int[np.ndarray, "images units"], values: Float[np.ndarray, " some"]) -> None:
        """Append values to their units, ``counts`` of each; units without room for theirs are compacted first."""
        while len(values):
            fill = self._fill_counts
            self._compact(np.flatnonzero((fill + counts.sum(0) > self._capacity) & (fill > self._keep_count)))
            # Each image's values of a unit come after those of the images before it.
            before = np.cumsum(counts, axis=0) - counts
            first = np.arange(self.units) * self._capacity + self._fill_counts + before
            lengths = counts.ravel()
            starts = np.cumsum(lengths) - lengths
            places = np.arange(len(values))
            targets = places + np.repeat(first.ravel() - starts, lengths)
            fitting = np.clip(self._capacity - self._fill_counts - before, 0, counts)
            self._fill_counts += fitting.sum(0)
            if fitting.sum() == len(values):
                self._buffer.ravel()[targets] = values
                return
            inside = places < np.repeat(starts + fitting.ravel(), lengths)
            self._buffer.ravel()[targets[inside]] = values[inside]
            counts, values = counts - fitting, values[~inside]

    def _compact(self, rows: Int[np.ndarray, " some"]) -> None:
        """Drop the values of rows that cannot determine the quantile any more; each has more than are kept."""
        if not len(rows):
            return
        values = self._buffer[rows]
        values.partition(self._capacity - self._keep_count, axis=1)
        self._buffer[rows, : self._keep_count] = values[:, -self._keep_count :]
        self._buffer[rows, self._keep_count :] = -np.inf
        self._fill_counts[rows] = self._keep_count
        # It is never changed in place, since other threads select values with it.
        floor = self._floor.clone()
        floor[torch.from_numpy(rows), 0] = torch.from_numpy(values[:, -self._keep_count].copy())
        self._floor = floor


class RunningRange:
    """Smallest and largest value of each unit, and the number of images by which it is ranked above 0."""

    def __init__(self, units: int):
        self.least, self.most = torch.full((units,), math.inf), torch.full((units,), -math.inf)
        self.positive_images = torch.zeros(units, dtype=torch.int64)
        # Number of images in which a value is not finite.
        self.nonfinite_images = torch.zeros(units, dtype=torch.int64)

    def add(
        self,
        minima: Float[Tensor, "images units"],
        peaks: Float[Tensor, "images units"],
        nonfinite: Bool[Tensor, "images units"],
        class_tokens: Float[Tensor, "images units"] | None = None,
        ranking: Float[Tensor, "images units"] | None = None,
    ) -> None:
        """Add images, given their smallest and largest finite values (infinite if there are none).

        A class token counts among the values of the layer. ``ranking`` is what images are ranked by, if not the peak.
        """
        low, high = minima, peaks
        if class_tokens is not None:
            usable = class_tokens.isfinite() & peaks.isfinite()
            low = torch.where(usable, torch.minimum(minima, class_tokens), minima)
            high = torch.where(usable, torch.maximum(peaks, class_tokens), peaks)
        self.least, self.most = torch.minimum(self.least, low.amin(0)), torch.maximum(self.most, high.amax(0))
        self.positive_images += ((peaks if ranking is None else ranking) > 0).sum(0)
        self.nonfinite_images += nonfinite.sum(0)

    def status(self, k: int, one_value: bool) -> list[str]:
        """Return the status of each unit.

        It is ``invalid`` without any finite value; ``dead`` if the activation never changes, also not in the class
        token; ``sparse`` if it is never negative, and positive in fewer than ``k`` images; else ``ok``.

        Args:
            k: number of exemplars per unit.
            one_value: whether a unit has a single value, which does not show whether the activation changes.
        """
        low, high = self.least, self.most
        dead = (low == high) & ((high == 0) | (not one_value))
        sparse = (low >= 0) & (self.positive_images < k)
        words = np.select([high.isneginf().numpy(), dead.numpy(), sparse.numpy()], ["invalid", "dead", "sparse"], "ok")
        return [str(word) for word in words]

    def merge(self, other: "RunningRange") -> None:
        """Add the values of another accumulator."""
        self.least, self.most = torch.minimum(self.least, other.least), torch.maximum(self.most, other.most)
        self.positive_images += other.positive_images
        self.nonfinite_images += other.nonfinite_images

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`."""
        return {"least": self.least, "most": self.most, "positive": self.positive_images, "odd": self.nonfinite_images}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.least, self.most, self.positive_images, self.nonfinite_images = (
            state[name].clone() for name in ("least", "most", "positive", "odd")
        )


def count_top_values(quantile: float, count: int) -> int:
    """Return how many of the largest of ``count`` values determine a quantile.

    >>> count_top_values(0.99, 1000), count_top_values(0.5, 3), count_top_values(1.0, 50)
    (11, 2, 1)
    """
    return max(count, 1) - math.floor(quantile * (max(count, 1) - 1))


def compute_spare_capacity(keep: int) -> int:
    """Return the free capacity beside the kept values, which makes compactions rare."""
    return max(keep // 2, _MIN_SPARE)


def sample_positions(
    ids: Int[np.ndarray, " images"], positions: int, rate: float
) -> Bool[np.ndarray, "images positions"]:
    """Return which positions of each image are in a sample of a fraction ``rate`` of all.

    A hash of image and position (splitmix64) determines it, so it does not depend on batches, order and processes.
    """
    key = ids.astype(np.uint64)[:, None] << np.uint64(32) | np.arange(positions, dtype=np.uint64)
    return _splitmix64(key) < np.uint64(min(int(rate * 2**64), 2**64 - 1))


def bound_sample_size(values: int, rate: float) -> int:
    """Return an upper bound of the size of a sample, by six standard deviations."""
    return min(values, math.ceil(values * rate + 6 * math.sqrt(values * rate * (1 - rate)) + 6))


def bound_rank_error(quantile: float, count: int, units: int) -> float:
    """Return a bound of a sampled quantile's rank error that holds for all units with 1 - ``FAILURE_PROBABILITY``.

    Bernstein's inequality for ``count`` draws without replacement (Hoeffding 1963), whatever the values.

    >>> 0.0001 < bound_rank_error(0.99, 10_000_000, 512) < 0.0003
    True
    """
    weight = math.log(2 * units / FAILURE_PROBABILITY) / max(count, 1)
    return weight / 3 + math.sqrt(weight * weight / 9 + 2 * weight * quantile * (1 - quantile))


def interpolate_quantile(
    low: Float[np.ndarray, " units"], high: Float[np.ndarray, " units"], share: float
) -> Float[np.ndarray, " units"]:
    """Interpolate linearly with numpy's rounding; minus infinity is kept."""
    with np.errstate(invalid="ignore"):
        step = high - low
        found = low + step * share if share < 0.5 else high - step * (1 - share)
    return np.where(np.isneginf(low), high if share == 1 else low, np.where(high == low, low, found))


def _count_in_rows(chosen: Bool[np.ndarray, "images units places"]) -> Int[np.ndarray, "images units"]:
    """Return the number of chosen places in each row; sums in 16 bits, where they suffice, are the fastest."""
    kind = np.uint16 if chosen.shape[2] < 2**16 else np.int64
    return np.add.reduce(chosen.view(np.uint8), axis=2, dtype=kind).astype(np.int64)


def _splitmix64(key: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
