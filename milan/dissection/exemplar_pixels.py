"""The pixels of a run's exemplar images: the newest in memory, the others in files of the run."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxtyping import Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from milan.storage.files import atomic_write

_FILES = "images-*.safetensors"
MAX_BYTES_IN_MEMORY = 2**23


class ExemplarPixels:
    """Pixels of images that are or were exemplars, so that none of them is decoded again at the end.

    Memory depends neither on the number of images nor on that of exemplars.

    Args:
        folder: folder of the files; the images in those that are there already are used.
        max_bytes: size of all pixels on disk; images that do not fit are left out.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self._new: dict[int, UInt8[Tensor, "3 height width"]] = {}
        self._new_bytes = self._stored_bytes = 0
        # The open file of each image.
        self._stored: dict[int, Any] = {}
        for path in folder.glob(_FILES):
            self._open(path)

    def __getitem__(self, id: int) -> UInt8[Tensor, "3 height width"]:
        """Return the pixels of an image; raise KeyError if they are not kept or cannot be read."""
        if id in self._new:
            return self._new[id]
        try:
            return self._stored[id].get_tensor(str(id))
        except (SafetensorError, OSError) as error:
            raise KeyError(id) from error

    def add(
        self, ids: Int[Tensor, " b"], images: UInt8[Tensor, "b 3 height width"], find_needed: Callable[[], set[int]]
    ) -> None:
        """Add images; ``find_needed`` returns the ids of all images that are exemplars now."""
        for id, image in zip(ids.tolist(), images, strict=True):
            if id not in self._stored:
                self._new[id] = image.clone()
                self._new_bytes += image.nbytes
        if self._new_bytes > min(MAX_BYTES_IN_MEMORY, self.max_bytes):
            self.store(find_needed())

    def store(self, needed: set[int]) -> None:
        """Move the images in memory to a file, those that are still needed."""
        new = {id: self._new[id] for id in sorted(self._new.keys() & needed)}
        self._new, self._new_bytes = {}, 0
        size = sum(image.nbytes for image in new.values())
        # Compacting halves the files at least, so that it takes time in proportion to the images that are added.
        if self._stored_bytes + size > self.max_bytes and 2 * len(self._stored.keys() & needed) < len(self._stored):
            self._compact(needed)
        if new and self._stored_bytes + size <= self.max_bytes:
            self._write(new)

    def clear(self) -> None:
        """Drop all images."""
        for path in self.folder.glob(_FILES):
            path.unlink()
        self._new, self._stored, self._new_bytes, self._stored_bytes = {}, {}, 0, 0

    def _compact(self, needed: set[int]) -> None:
        """Write the images that are needed anew, some at a time, and drop the others."""
        old, files = self._stored, list(self.folder.glob(_FILES))
        self._stored, self._stored_bytes = {}, 0
        part: dict[int, Tensor] = {}
        for id in sorted(old.keys() & needed):
            with suppress(SafetensorError, OSError):
                part[id] = old[id].get_tensor(str(id))
            if sum(image.nbytes for image in part.values()) > MAX_BYTES_IN_MEMORY:
                self._write(part)
                part = {}
        if part:
            self._write(part)
        for path in files:
            path.unlink()

    def _write(self, images: dict[int, Tensor]) -> None:
        path = self.folder / _FILES.replace("*", uuid.uuid4().hex)
        with atomic_write(path) as partial:
            save_file({str(id): image for id, image in images.items()}, partial)
        self._open(path)

    def _open(self, path: Path) -> None:
        """Use the images of a file; a damaged one is passed over."""
        with suppress(SafetensorError, OSError):
            file = safe_open(path, "pt")
            self._stored |= {int(id): file for id in file.keys()}  # noqa: SIM118
            self._stored_bytes += path.stat().st_size
