"""Statistics of sparse units from their values that are not 0, equal to those of dense units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.dissection.layer_statistics import LayerPlan
from milan.dissection.running_statistics import interpolate_quantile
from milan.dissection.sparse_files import expand_ranges


@dataclass(frozen=True)
class UnitRecords:
    """The values of some units that are not 0, sorted by unit, image and place.

    Values of a unit in an image are a *pair*: a slice of ``places`` and ``values`` between two of ``offsets``.

    Attributes:
        units: number of units.
        unit_places: number of places of a unit in an image, without the class token.
        places: place of each value; ``unit_places`` for the class token.
        values: the values.
        offsets: where each pair begins, and the number of values.
        pair_units: unit of each pair, from 0.
        pair_images: image of each pair.
    """

    units: int
    unit_places: int
    places: Int[np.ndarray, " values"]
    values: Float[np.ndarray, " values"]
    offsets: Int[np.ndarray, " pairs_plus_one"]
    pair_units: Int[np.ndarray, " pairs"]
    pair_images: Int[np.ndarray, " pairs"]

    @classmethod
    def from_sorted(
        cls, keys: Int[np.ndarray, " values"], values: Float[np.ndarray, " values"], plan: LayerPlan, units: range
    ) -> "UnitRecords":
        """Return the records of a range of units, given their sorted keys."""
        places = math.prod(plan.grid)
        pairs = keys // (places + 1)
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        pair_units, images = np.divmod(pairs[starts], plan.images)
        offsets = np.append(starts, len(keys))
        return cls(len(units), places, keys % (places + 1), values, offsets, pair_units - units.start, images)

    @property
    def lengths(self) -> Int[np.ndarray, " pairs"]:
        """Number of values of each pair."""
        return np.diff(self.offsets)

    @property
    def pairs(self) -> Int[np.ndarray, " values"]:
        """Pair of each value."""
        return np.repeat(np.arange(len(self.pair_units)), self.lengths)

    @property
    def in_grid(self) -> Bool[np.ndarray, " values"]:
        """Whether a value is one of the grid, and not of the class token."""
        return self.places < self.unit_places


@dataclass(frozen=True)
class UnitStatistics:
    """The statistics of some units.

    Attributes:
        arrays: the arrays of :data:`milan.dissection.sparse_files.ARRAYS`.
        pooled_lengths: number of images in which each unit is active.
        map_lengths: number of values in the map of each exemplar, unit by unit.
        peaks, ids: pooled activations and images of the exemplars, strongest first.
        thresholds: mask thresholds.
        range: state of a :class:`RunningRange`.
    """

    arrays: dict[str, np.ndarray]
    pooled_lengths: Int[Tensor, " units"]
    map_lengths: Int[Tensor, " units_times_k"]
    peaks: Float[Tensor, "units k"]
    ids: Int[Tensor, "units k"]
    thresholds: Float[Tensor, " units"]
    range: dict[str, Tensor]


@dataclass(frozen=True)
class _Pooled:
    """Pooled activations of each pair. Values that are not finite do not count."""

    mean: Float[np.ndarray, " pairs"]
    max: Float[np.ndarray, " pairs"]
    min: Float[np.ndarray, " pairs"]
    cls: Float[np.ndarray, " pairs"]
    nonfinite: Bool[np.ndarray, " pairs"]


def summarize_units(
    records: UnitRecords, readable: Int[np.ndarray, " images"], k: int, plan: LayerPlan
) -> UnitStatistics:
    """Return the statistics of some units.

    Args:
        records: their values that are not 0.
        readable: indices of the images that were read.
        k: number of exemplars.
        plan: quantile of the thresholds, and pooled activation by which exemplars are ranked.
    """
    pooled = _pool(records)
    ranking = getattr(pooled, plan.rank_by)
    ranking = np.where(np.isfinite(ranking), ranking, -np.inf)
    peaks, ids = _rank_images(records, ranking, readable, k)
    map_lengths, map_places, map_values = _collect_maps(records, ids)
    arrays = {"pooled_images": records.pair_images, "map_places": map_places, "map_values": map_values}
    for name in ("max", "mean", "cls"):
        values = getattr(pooled, name)
        arrays[f"pooled_{name}"] = np.where(np.isinf(values), np.nan, values)
    return UnitStatistics(
        arrays,
        torch.from_numpy(np.bincount(records.pair_units, minlength=records.units)),
        torch.from_numpy(map_lengths),
        torch.from_numpy(peaks),
        torch.from_numpy(ids),
        torch.from_numpy(_compute_thresholds(records, plan.quantile, len(readable))),
        _compute_range(records, pooled, ranking, len(readable), plan.layer.has_class_token),
    )


def join_statistics(parts: Sequence[UnitStatistics]) -> UnitStatistics:
    """Return the statistics of several ranges of units as those of one, without arrays."""
    tensors = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("pooled_lengths", "map_lengths", "peaks", "ids", "thresholds")
    }
    ranges = {name: torch.cat([part.range[name] for part in parts]) for name in parts[0].range}
    return UnitStatistics(arrays={}, range=ranges, **tensors)


def _pool(records: UnitRecords) -> _Pooled:
    pairs, count = records.pairs, len(records.pair_units)
    values, finite, in_grid = records.values, np.isfinite(records.values), records.in_grid
    used = finite & in_grid
    # A sum in the order of places, so that it does not depend on other units.
    sums = np.bincount(pairs, np.where(used, values, 0).astype(np.float64), minlength=count)
    bad = np.bincount(pairs[in_grid & ~finite], minlength=count)
    has_zero = np.bincount(pairs[in_grid], minlength=count) < records.unit_places
    starts = records.offsets[:-1]
    largest = np.maximum.reduceat(np.where(used, values, -np.inf), starts) if count else np.empty(0, np.float32)
    smallest = np.minimum.reduceat(np.where(used, values, np.inf), starts) if count else np.empty(0, np.float32)
    cls = np.zeros(count, np.float32)
    cls[pairs[~in_grid]] = values[~in_grid]
    with np.errstate(invalid="ignore"):
        # The mean of no finite value is 0 / 0 = NaN.
        mean = (sums / (records.unit_places - bad)).astype(np.float32)
    largest = np.where(has_zero, np.maximum(largest, 0), largest).astype(np.float32)
    smallest = np.where(has_zero, np.minimum(smallest, 0), smallest).astype(np.float32)
    return _Pooled(mean, largest, smallest, cls, bad > 0)


def _rank_images(
    records: UnitRecords, ranking: Float[np.ndarray, " pairs"], readable: Int[np.ndarray, " images"], k: int
) -> tuple[Float[np.ndarray, "units k"], Int[np.ndarray, "units k"]]:
    """Return the k images that activate each unit most, equal ones by image; images without values have 0."""
    units = records.pair_units
    ids, peaks = np.tile(readable[:k], (records.units, 1)), np.zeros((records.units, k), np.float32)
    order = np.lexsort((records.pair_images, -ranking, units))
    counts = np.bincount(units, minlength=records.units)
    begins = np.cumsum(counts) - counts
    positive = np.bincount(units[ranking > 0], minlength=records.units)
    # Units with k images above 0 need no others.
    full = np.flatnonzero(positive >= k)
    best = order[begins[full, None] + np.arange(k)]
    ids[full], peaks[full] = records.pair_images[best], ranking[best]
    for unit in np.flatnonzero((positive < k) & (counts > 0)):
        pairs = order[begins[unit] : begins[unit] + counts[unit]]
        others = readable[: k + len(pairs)]
        others = others[~np.isin(others, records.pair_images[pairs])][:k]
        candidates = np.concatenate([records.pair_images[pairs], others])
        values = np.concatenate([ranking[pairs], np.zeros(len(others), np.float32)])
        chosen = np.lexsort((candidates, -values))[:k]
        ids[unit], peaks[unit] = candidates[chosen], values[chosen]
    return peaks, ids


def _collect_maps(
    records: UnitRecords, ids: Int[np.ndarray, "units k"]
) -> tuple[Int[np.ndarray, " exemplars"], Int[np.ndarray, " values"], Float[np.ndarray, " values"]]:
    """Return the number of values in the grid of each exemplar, and their places and values."""
    # Pairs are sorted by unit and image.
    images = 1 + max(int(records.pair_images.max(initial=0)), int(ids.max(initial=0)))
    known = records.pair_units * images + records.pair_images
    asked = (np.arange(records.units)[:, None] * images + ids).ravel()
    pairs = np.searchsorted(known, asked)
    pairs[pairs == len(known)] = 0
    exists = known[pairs] == asked if len(known) else np.zeros(len(asked), bool)
    ends = records.offsets[1:] - np.bincount(records.pairs[~records.in_grid], minlength=len(known))
    lengths = np.zeros(len(asked), np.int64)
    lengths[exists] = (ends - records.offsets[:-1])[pairs[exists]]
    chosen = expand_ranges(records.offsets[pairs], lengths)
    values = records.values[chosen]
    return lengths, records.places[chosen], np.where(np.isfinite(values), values, -np.inf)


def _compute_thresholds(records: UnitRecords, quantile: float, images: int) -> Float[np.ndarray, " units"]:
    """Return the quantile of all values of each unit in the grid, of which most are 0."""
    in_grid = records.in_grid
    units, values = records.pair_units[records.pairs[in_grid]], records.values[in_grid]
    values = np.where(np.isfinite(values), values, -np.inf)
    count = images * records.unit_places
    place = quantile * (count - 1)
    known = np.bincount(units, minlength=records.units)
    negative = np.bincount(units[values < 0], minlength=records.units)
    order = np.lexsort((values, units))
    begins = np.cumsum(known) - known

    def ranked(rank: int) -> Float[np.ndarray, " units"]:
        """Return the value of this rank of each unit, the smallest being 0."""
        above = rank - (count - known)
        place = np.where(rank < negative, rank, np.where(above >= negative, above, -1))
        found = np.zeros(records.units, np.float64)
        some = place >= 0
        found[some] = values[order[begins[some] + place[some]]]
        return found

    low = math.floor(place)
    values_at = ranked(low), ranked(min(low + 1, count - 1))
    return interpolate_quantile(*values_at, place % 1).astype(np.float32)


def _compute_range(
    records: UnitRecords, pooled: _Pooled, ranking: Float[np.ndarray, " pairs"], images: int, has_class_token: bool
) -> dict[str, Tensor]:
    units, usable = records.pair_units, np.isfinite(pooled.cls) & np.isfinite(pooled.max) & has_class_token
    low = np.where(usable, np.minimum(pooled.min, pooled.cls), pooled.min)
    high = np.where(usable, np.maximum(pooled.max, pooled.cls), pooled.max)
    # In the other images all values are 0.
    inactive = np.bincount(units, minlength=records.units) < images
    least, most = np.where(inactive, 0, np.inf), np.where(inactive, 0, -np.inf)
    np.minimum.at(least, units, low)
    np.maximum.at(most, units, high)
    counted = {"positive": ranking > 0, "odd": pooled.nonfinite}
    counts = {name: np.bincount(units[which], minlength=records.units) for name, which in counted.items()}
    limits = {"least": least.astype(np.float32), "most": most.astype(np.float32)}
    return {name: torch.from_numpy(array) for name, array in {**limits, **counts}.items()}
