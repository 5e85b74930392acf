"""The pixels of all exemplar images, each stored once beside the layers of a dissection."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from milan.errors import BadInput
from milan.storage.files import atomic_write, new_array
from milan.storage.integrity import checksums, damage, read_sealed, sealed

_PIXELS, _LIST = "images.npy", "images.json"


class StoredImages:
    """Images on disk, by their index in the probe.

    Attributes:
        probe: fingerprint of the probe.
        ids: indices of the images.
    """

    def __init__(self, folder: Path):
        facts = read_sealed(folder / _LIST)
        if reason := damage(folder, facts["files"]):
            raise ValueError(reason)
        self.probe: str = facts["probe"]
        self.ids: list[int] = facts["ids"]
        self._rows = {id: row for row, id in enumerate(self.ids)}
        self._pixels = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
        if len(self._pixels) != len(self.ids):
            raise ValueError(f"{folder / _PIXELS} does not fit {folder / _LIST}")

    def __contains__(self, id: int) -> bool:
        return id in self._rows

    def contains_all(self, ids: Iterable[int]) -> bool:
        """Return whether all images with these indices are stored."""
        return all(id in self._rows for id in ids)

    def __getitem__(self, ids: Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 height width"]:
        """Return images by index; raise KeyError for one that is not stored."""
        return torch.from_numpy(self._pixels[[self._rows[id] for id in ids.tolist()]])


def open_stored_images(folder: Path, probe: str) -> StoredImages | None:
    """Return the images stored in a folder, if they belong to the probe with this fingerprint; else None."""
    try:
        found = StoredImages(folder)
    # There are none, or they are damaged, of another version, or of an interrupted run.
    except (OSError, ValueError, KeyError, BadInput):
        return None
    return found if found.probe == probe else None


def store_images(
    folder: Path, probe: str, ids: Iterable[int], load_image: Callable[[int], UInt8[Tensor, "3 height width"]]
) -> None:
    """Store the images with these indices, and no others, atomically."""
    ordered = sorted(ids)
    # From here on the old list would not match.
    (folder / _LIST).unlink(missing_ok=True)
    _write_images(folder / _PIXELS, ordered, load_image)
    with atomic_write(folder / _LIST) as partial:
        partial.write_text(json.dumps(sealed({"probe": probe, "ids": ordered, "files": checksums(folder, [_PIXELS])})))


@contextmanager
def write_array(file: Path, shape: tuple[int, ...]) -> Iterator[np.memmap]:
    """Yield a new .npy file of bytes as a memory map; the file appears when the block ends without an error."""
    with atomic_write(file) as partial:
        array = new_array(partial, np.uint8, shape)
        yield array
        array.flush()


def _write_images(file: Path, ids: list[int], image: Callable[[int], Tensor]) -> None:
    first = image(ids[0]) if ids else torch.zeros(3, 1, 1, dtype=torch.uint8)
    with write_array(file, (len(ids), *first.shape)) as pixels:
        for row, id in enumerate(ids):
            pixels[row] = (image(id) if row else first).numpy()
