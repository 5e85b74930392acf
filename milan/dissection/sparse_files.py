"""The files of a sparse layer: the images in which a unit is active, with its pooled activations, unit by unit.

A unit's values are a slice of each array, between two of ``pooled_offsets`` or ``map_offsets``. An active unit takes 12
bytes per image in which it is active, and 16 with a class token.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from milan.storage.files import atomic_write

# Name and data type of each array.
ARRAYS = {
    "pooled_images": np.int32,
    "pooled_max": np.float32,
    "pooled_mean": np.float32,
    "pooled_cls": np.float32,
    "map_places": np.int32,
    "map_values": np.float32,
}
LoadArray = Callable[[str], np.ndarray]


class ArrayWriter:
    """Writes a one-dimensional array as .npy, part by part.

    Args:
        file: the file, which appears at the end.
        kind: data type.
        work: folder for the parts.
    """

    def __init__(self, file: Path, kind: type, work: Path):
        self._file, self._kind, self._length = file, np.dtype(kind), 0
        self._raw = work / f"{file.stem}.raw"
        self._raw.write_bytes(b"")

    def append(self, values: np.ndarray) -> None:
        """Append values."""
        with self._raw.open("ab") as raw:
            values.astype(self._kind, copy=False).tofile(raw)
        self._length += len(values)

    def close(self) -> None:
        """Write the .npy file."""
        header = {"descr": self._kind.str, "fortran_order": False, "shape": (self._length,)}
        with atomic_write(self._file) as partial, partial.open("wb") as array, self._raw.open("rb") as raw:
            np.lib.format.write_array_header_1_0(array, header)
            shutil.copyfileobj(raw, array)
        self._raw.unlink()


def read_activations(
    load: LoadArray, offsets: Int[np.ndarray, " units_plus_one"], pooling: str, rows: Sequence[int], images: int
) -> Float[np.ndarray, "images rows"]:
    """Return the pooled activations of some units as a dense block.

    Args:
        load: returns an array by its file's name.
        offsets: ``pooled_offsets`` of the units.
        pooling: max, mean or cls.
        rows: the units' rows.
        images: number of images of the probe.
    """
    chosen = np.asarray(rows, np.int64)
    starts, lengths = offsets[chosen], offsets[chosen + 1] - offsets[chosen]
    places = expand_ranges(starts, lengths)
    block = np.zeros((images, len(chosen)), np.float32)
    block[load("pooled_images.npy")[places], np.repeat(np.arange(len(chosen)), lengths)] = load(
        f"pooled_{pooling}.npy"
    )[places]
    return block


def read_maps(
    load: LoadArray, offsets: Int[np.ndarray, " k_plus_one"], grid: tuple[int, int]
) -> Float[np.ndarray, "k h w"]:
    """Return the dense maps of a unit's exemplars.

    Args:
        load: returns an array by its file's name.
        offsets: ``map_offsets`` of the unit's exemplars.
        grid: height and width of the maps.
    """
    maps = np.zeros((len(offsets) - 1, grid[0] * grid[1]), np.float32)
    part = slice(int(offsets[0]), int(offsets[-1]))
    numbers = np.repeat(np.arange(len(maps)), np.diff(offsets))
    maps[numbers, load("map_places.npy")[part]] = load("map_values.npy")[part]
    return maps.reshape(len(maps), *grid)


def expand_ranges(starts: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """Return the indices of all ranges, one after the other.

    >>> expand_ranges(np.array([5, 0, 8]), np.array([2, 0, 3])).tolist()
    [5, 6, 8, 9, 10]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
