"""The images that activate each unit most, over a pass over a probe; mergeable and independent of order."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EMPTY_ID = torch.iinfo(torch.int64).max  # id of an empty place, which ranks last among ties


class EnteringMaps(NamedTuple):
    """The maps of a batch that may be among the top k: those of ``units[i]`` in image ``images[i]`` of the batch.

    They are in the order of the images.
    """

    images: Int[Tensor, " some"]
    units: Int[Tensor, " some"]
    maps: Float[Tensor, "some h w"]


class LastPlaces(NamedTuple):
    """The weakest of each unit's top k: its peak, its image's id, and where it is stored."""

    peaks: Float[np.ndarray, " units"]
    ids: Int[np.ndarray, " units"]
    places: Int[np.ndarray, " units"]


class RunningTopK:
    """The k images that activate each unit most, with their activation maps; exact and independent of the order.

    Larger peaks rank first, equal ones by image id; NaN ranks as minus infinity.
    """

    def __init__(self, units: int, k: int, grid: tuple[int, int]):
        self.units, self.k, self.grid = units, k, grid
        self._peaks = np.full((units, k), -np.inf, np.float32)
        self._ids = np.full((units, k), EMPTY_ID)
        # Unlike those of torch, zeros of numpy take no time and memory before they are replaced.
        self._maps = np.zeros((units, k, *grid), np.float32)
        self._last = self._find_last(np.arange(units))

    def add(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], maps: Float[Tensor, "images units h w"]
    ) -> Bool[Tensor, " images"]:
        """Add a batch of images; return which of them were then among the top k of some unit."""
        return self.add_selected(ids, peaks, self.select_maps(ids, peaks, maps))

    def select_maps(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], maps: Float[Tensor, "images units h w"]
    ) -> EnteringMaps:
        """Return copies of the maps that may enter; this changes nothing and may run in another thread.

        As long as the accumulator ``takes_all``, these are the maps themselves where all may enter.
        """
        # An outdated last place is a lower one, so it selects too many maps, but never too few.
        last = self._last
        entering = _precedes(_as_ranks(peaks), ids[:, None].cpu().numpy(), last.peaks, last.ids)
        images, units = map(torch.from_numpy, entering.nonzero())
        if maps.device.type != "cpu":
            return EnteringMaps(images, units, maps[images.to(maps.device), units.to(maps.device)].float().cpu())
        # Rows of contiguous maps are copied faster than elements.
        rows = maps.float().contiguous().flatten(0, 1)
        if len(images) == len(rows) and _are_empty(last):
            return EnteringMaps(images, units, rows)
        return EnteringMaps(images, units, rows.index_select(0, images * self.units + units))

    @property
    def takes_all(self) -> bool:
        """Whether any image may still enter for each unit, as at the start."""
        return _are_empty(self._last)

    def add_selected(
        self, ids: Int[Tensor, " images"], peaks: Float[Tensor, "images units"], entering: EnteringMaps
    ) -> Bool[Tensor, " images"]:
        """Add a batch, given what ``select_maps`` returned; return the same as ``add``."""
        ranks, units, maps = _as_ranks(peaks), entering.units.numpy(), entering.maps.numpy()
        ends = np.searchsorted(entering.images.numpy(), np.arange(len(ids) + 1))
        last = self._copy_last()
        entered = [
            self._insert(last, some := units[start:end], ranks[image, some], np.full(end - start, id), maps[start:end])
            for image, (id, start, end) in enumerate(zip(ids.tolist(), ends[:-1], ends[1:], strict=True))
        ]
        self._last = last
        return torch.tensor(entered, dtype=torch.bool)

    def merge(self, other: "RunningTopK") -> None:
        """Add the images of another accumulator, which must be others than its own."""
        last = self._copy_last()
        for place in range(other.k):
            columns = (other._peaks[:, place], other._ids[:, place], other._maps[:, place])
            self._insert(last, np.arange(self.units), *columns)
        self._last = last

    def ranked(self) -> tuple[Float[Tensor, "units k"], Int[Tensor, "units k"], Float[Tensor, "units k h w"]]:
        """Return peaks, image ids and maps, strongest first. Empty places have the id ``EMPTY_ID``."""
        # The last key is the first one to sort by.
        order = np.lexsort((self._ids, -self._peaks))
        rows = np.arange(self.units)[:, None]
        peaks, ids, maps = (torch.from_numpy(each[rows, order]) for each in (self._peaks, self._ids, self._maps))
        return peaks, ids, maps

    def image_ids(self) -> set[int]:
        """Return the ids of all images that are among the top k of some unit."""
        return {id for id in np.unique(self._ids).tolist() if id != EMPTY_ID}

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, see :meth:`restore`."""
        arrays = {"peaks": self._peaks, "ids": self._ids, "maps": self._maps}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        for name, values in self.state().items():
            values.copy_(state[name])
        self._last = self._find_last(np.arange(self.units))

    def _copy_last(self) -> LastPlaces:
        """Return a copy to change; the last places are replaced at once, since other threads select maps with them."""
        return LastPlaces(*(each.copy() for each in self._last))

    def _insert(
        self,
        last: LastPlaces,
        units: Int[np.ndarray, " some"],
        peaks: Float[np.ndarray, " some"],
        ids: Int[np.ndarray, " some"],
        maps: Float[np.ndarray, "some h w"],
    ) -> bool:
        """Insert at most one image of each unit in place of its last one, which is updated; return whether any was."""
        stronger = _precedes(peaks, ids, last.peaks[units], last.ids[units])
        if not stronger.any():
            return False
        if not stronger.all():
            units, peaks, ids, maps = (each[stronger] for each in (units, peaks, ids, maps))
        places = last.places[units]
        self._peaks[units, places], self._ids[units, places], self._maps[units, places] = peaks, ids, maps
        for whole, new in zip(last, self._find_last(units), strict=True):
            whole[units] = new
        return True

    def _find_last(self, units: Int[np.ndarray, " some"]) -> LastPlaces:
        peaks, ids = self._peaks[units], self._ids[units]
        weakest = peaks.min(1)
        places = np.where(peaks == weakest[:, None], ids, -1).argmax(1)
        return LastPlaces(weakest, ids[np.arange(len(units)), places], places)


def _are_empty(last: LastPlaces) -> bool:
    return not len(last.ids) or bool(last.ids.min() == EMPTY_ID)


def _as_ranks(peaks: Float[Tensor, "..."]) -> Float[np.ndarray, "..."]:
    return peaks.cpu().float().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).numpy()


def _precedes(
    peaks: Float[np.ndarray, "..."],
    ids: Int[np.ndarray, "..."],
    weakest: Float[np.ndarray, "..."],
    latest: Int[np.ndarray, "..."],
) -> Bool[np.ndarray, "..."]:
    """Return which images rank before the one with peak ``weakest`` and id ``latest``."""
    return (peaks > weakest) | ((peaks == weakest) & (ids < latest))
