"""The images that activate each unit most, over a pass over a probe; mergeable and independent of order."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CHUNK_VALUES = 2**22  # values at a time in copying rows of maps
EMPTY_ID = torch.iinfo(torch.int64).max  # id of an empty place, which ranks last among ties


class EnteringMaps(NamedTuple):
    """The maps of a batch that may be among the top k: those of ``units[i]`` in image ``images[i]`` of the batch."""

    images: Int[Tensor, " some"]
    units: Int[Tensor, " some"]
    maps: Float[Tensor, "some h w"]


class RunningTopK:
    """The k images that activate each unit most, with their activation maps; exact and independent of the order.

    Larger peaks rank first, equal ones by image id; NaN ranks as minus infinity.
    """

    def __init__(self, units: int, k: int, grid: tuple[int, int]):
        self.units, self.k, self.grid = units, k, grid
        self.peaks = torch.full((units, k), -math.inf)
        self.ids = torch.full((units, k), EMPTY_ID)
        # Unlike those of torch, zeros of numpy take no time and memory before they are replaced.
        self.maps = torch.from_numpy(np.zeros((units, k, *grid), np.float32))
        self._last = self._find_last(slice(None))

    def add(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], maps: Float[Tensor, "images units h w"]
    ) -> Bool[Tensor, " images"]:
        """Add a batch of images; return which of them are now among the top k of some unit."""
        return self.add_selected(ids, peaks, self.select_maps(ids, peaks, maps))

    def select_maps(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], maps: Float[Tensor, "images units h w"]
    ) -> EnteringMaps:
        """Return copies of the maps that may enter; this changes nothing and may run in another thread."""
        # An outdated last place is a lower one, so it selects too many maps, but never too few.
        last = self._last
        images, units = _precedes(_as_ranks(peaks), ids[:, None].cpu(), *last).nonzero().unbind(1)
        if maps.device.type != "cpu":
            return EnteringMaps(images, units, maps[images.to(maps.device), units.to(maps.device)].float().cpu())
        # Rows of contiguous maps are copied faster than elements.
        rows = maps.float().contiguous().flatten(0, 1)
        return EnteringMaps(images, units, rows.index_select(0, images * self.units + units))

    def add_selected(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], entering: EnteringMaps
    ) -> Bool[Tensor, " images"]:
        """Add a batch, given what ``select_maps`` returned; return the same as ``add``."""
        rows = torch.full((self.units, len(ids)), -1)
        rows[entering.units, entering.images] = torch.arange(len(entering.units))
        return self._insert(_as_ranks(peaks).T, ids.cpu().expand(self.units, -1), entering.maps, rows).any(0)

    def merge(self, other: "RunningTopK") -> None:
        """Add the images of another accumulator, which must be others than its own."""
        rows = torch.arange(other.ids.numel()).view_as(other.ids)
        self._insert(other.peaks, other.ids, other.maps.flatten(0, 1), rows)

    def ranked(self) -> tuple[Float[Tensor, "units k"], Int[Tensor, "units k"], Float[Tensor, "units k h w"]]:
        """Return peaks, image ids and maps, strongest first. Empty places have the id ``EMPTY_ID``."""
        order = _rank(self.peaks, self.ids)
        return (
            self.peaks.gather(1, order),
            self.ids.gather(1, order),
            self.maps[torch.arange(self.units)[:, None], order],
        )

    def image_ids(self) -> set[int]:
        """Return the ids of all images that are among the top k of some unit."""
        return {id for id in self.ids.unique().tolist() if id != EMPTY_ID}

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`."""
        return {"peaks": self.peaks, "ids": self.ids, "maps": self.maps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        for name, values in self.state().items():
            values.copy_(state[name])
        self._last = self._find_last(slice(None))

    def _insert(
        self,
        peaks: Float[Tensor, "units new"],
        ids: Int[Tensor, "units new"],
        maps: Float[Tensor, "some h w"],
        rows: Int[Tensor, "units new"],
    ) -> Bool[Tensor, "units new"]:
        """Insert images, whose maps are those of ``maps[rows]``."""
        entered = torch.zeros(peaks.shape, dtype=torch.bool)
        # Only units with a new image that precedes their last one are ranked, soon a small fraction of them.
        weakest, latest = (bound[:, None] for bound in self._last)
        touched = _precedes(peaks, ids, weakest, latest).any(1).nonzero().flatten()
        if not len(touched):
            return entered
        order = _rank(
            torch.cat([self.peaks[touched], peaks[touched]], 1), torch.cat([self.ids[touched], ids[touched]], 1)
        )
        stays = torch.zeros(order.shape, dtype=torch.bool).scatter_(1, order[:, : self.k], True)
        leaves, enters = ~stays[:, : self.k], stays[:, self.k :]
        # As many images leave a unit as enter it, and both are listed unit by unit, so each new one gets a free place.
        unit, place = leaves.nonzero().unbind(1)
        _, new = enters.nonzero().unbind(1)
        unit = touched[unit]
        self.peaks[unit, place], self.ids[unit, place] = peaks[unit, new], ids[unit, new]
        _copy_rows(self.maps.flatten(0, 1), unit * self.k + place, maps, rows[unit, new])
        entered[touched] = enters
        new_peaks, new_ids = self._find_last(touched)
        # It is never changed in place, since other threads select maps with it.
        self._last = self._last[0].index_copy(0, touched, new_peaks), self._last[1].index_copy(0, touched, new_ids)
        return entered

    def _find_last(self, units: Int[Tensor, " some"] | slice) -> tuple[Float[Tensor, " some"], Int[Tensor, " some"]]:
        """Return peak and id of the image in the last place of some units."""
        peaks, ids = self.peaks[units], self.ids[units]
        weakest = peaks.amin(1)
        return weakest, ids.where(peaks == weakest[:, None], torch.tensor(-1)).amax(1)


def _as_ranks(peaks: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return peaks.cpu().float().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def _precedes(peaks: Tensor, ids: Tensor, weakest: Tensor, latest: Tensor) -> Bool[Tensor, "..."]:
    """Return which images rank before the one with peak ``weakest`` and id ``latest``."""
    return (peaks > weakest) | ((peaks == weakest) & (ids < latest))


def _copy_rows(target: Tensor, to: Int[Tensor, " n"], source: Tensor, rows: Int[Tensor, " n"]) -> None:
    """Set ``target[to] = source[rows]``, a bounded number of values at a time; ``rows`` are distinct.

    Rows are read in their order, so that they need no copy where all of them are used, as those of most batches.
    """
    places = torch.full((len(source),), -1).index_copy_(0, rows, to)
    step = max(1, _CHUNK_VALUES // max(1, math.prod(source.shape[1:])))
    for part, chosen in zip(source.split(step), places.split(step), strict=True):
        used = chosen >= 0
        part, chosen = (part, chosen) if used.all() else (part[used], chosen[used])
        target.numpy()[chosen.numpy()] = part.numpy()


def _rank(peaks: Float[Tensor, "units n"], ids: Int[Tensor, "units n"]) -> Int[Tensor, "units n"]:
    """Return the order by peak, then by id, as one order of integers, since ``topk`` breaks ties arbitrarily."""
    # The bits of floats order them like integers, those of negative ones in reverse; 0 is added since -0 equals 0.
    bits = (peaks + 0.0).numpy().view(np.int32)
    rising = bits ^ (bits >> 31 & np.int32(2**31 - 1))
    keys = (~rising).astype(np.int64) << 32 | np.minimum(ids.numpy(), 2**32 - 1)
    return torch.from_numpy(keys.argsort(axis=1))
