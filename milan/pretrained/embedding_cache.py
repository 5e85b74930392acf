"""Embeddings on disk: of images in a memory map that is filled in order, of texts by text."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.errors import BadInput
from milan.storage.files import atomic_write, new_array, wait_for_folder
from milan.storage.integrity import json_or_none

SAVE_INTERVAL = 5.0  # seconds of work that a kill may cost
LOOKUP_BATCH = 500  # texts looked up at once


class ImageEmbeddingFile:
    """One vector for each image, in a folder: ``rows.npy``, and ``done.json`` with the number of finished rows.

    Args:
        folder: named by the content key of all that the vectors depend on.
    """

    def __init__(self, folder: Path, count: int, features: int):
        self.folder, self.count, self.features = folder, count, features
        self._saved = 0.0
        self._memmap: np.memmap | None = None

    @contextmanager
    def lock_to_fill(self) -> Iterator[int | None]:
        """Lock the folder, after waiting for other processes, and yield the image to continue with; None if complete.

        When the context ends without an error, the file is complete.

        Raises:
            BadInput: the folder cannot be written.
        """
        if self._facts()["whole"]:
            yield None
            return
        with wait_for_folder(self.folder):
            facts = self._facts()  # another may have finished meanwhile
            if facts["whole"]:
                yield None
                return
            self._open_file(facts["done"])
            yield facts["done"]
            self._save(self.count, whole=True)

    def put(self, ids: Int[Tensor, " b"], vectors: Float[Tensor, "b features"]) -> None:
        """Store vectors of images; earlier images without a vector are unreadable."""
        assert self._memmap is not None
        self._memmap[ids.numpy()] = vectors.numpy()
        if time.monotonic() - self._saved > SAVE_INTERVAL:
            self._save(int(ids[-1]) + 1, whole=False)

    def count_missing(self) -> int:
        """Return the number of images without a vector."""
        assert self._memmap is not None
        return int(np.isnan(self._memmap[:, 0]).sum())

    def open(self) -> Float[Tensor, "images features"]:
        """Return all vectors, mapped from the file; writing to the tensor changes memory only."""
        return torch.from_numpy(np.load(self.folder / "rows.npy", mmap_mode="c"))

    def _open_file(self, done: int) -> None:
        path, shape = self.folder / "rows.npy", (self.count, self.features)
        if not done:
            try:
                self._memmap = new_array(path, np.float32, shape)
                self._memmap[:] = np.nan
            except OSError as error:
                raise BadInput(
                    f"cannot write {path}: {error.strerror}; MILAN_CACHE=FOLDER sets another cache"
                ) from None
        else:
            self._memmap = np.lib.format.open_memmap(path, "r+")
        self._saved = time.monotonic()

    def _save(self, done: int, whole: bool) -> None:
        """Write the vectors, then their number, which is thus never too large."""
        assert self._memmap is not None
        self._memmap.flush()
        with atomic_write(self.folder / "done.json") as path:
            path.write_text(json.dumps({"done": done, "whole": whole}))
        self._saved = time.monotonic()

    def _facts(self) -> dict:
        # There are none yet, or they are damaged.
        with suppress(OSError, ValueError, EOFError):
            facts = json_or_none(self.folder / "done.json")
            held = np.load(self.folder / "rows.npy", mmap_mode="r").shape
            if isinstance(facts, dict) and {"done", "whole"} <= facts.keys() and held == (self.count, self.features):
                return facts
        return {"done": 0, "whole": False}


class TextEmbeddingStore(AbstractContextManager["TextEmbeddingStore"]):
    """One vector for each text, in SQLite; a kill of the process loses none that ``put`` has stored."""

    def __init__(self, path: Path, features: int):
        self.path, self.features = path, features
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60)
            with self._connection as base:
                base.execute("PRAGMA journal_mode=WAL")
                # A lost vector is computed again; waiting for the disk at each batch takes longer than embedding it.
                base.execute("PRAGMA synchronous=NORMAL")
                base.execute(
                    "CREATE TABLE IF NOT EXISTS texts (hash BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._unusable(error) from None

    def find_missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without a vector, without duplicates, in their order."""
        hashes = {text: _hash_text(text) for text in dict.fromkeys(texts)}
        stored = self._vectors(list(hashes.values()))
        return [text for text, hash in hashes.items() if hash not in stored]

    def put(self, texts: Sequence[str], vectors: Float[Tensor, "texts features"]) -> None:
        """Store vectors of texts; a vector that another process has stored meanwhile is kept.

        Raises:
            BadInput: they cannot be written, as on a full disk.
        """
        rows = [
            (_hash_text(text), vector.tobytes())
            for text, vector in zip(texts, vectors.numpy().astype("<f4"), strict=True)
        ]
        try:
            with self._connection as base:
                base.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from None

    def get(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return the vectors of texts that all have one."""
        hashes = [_hash_text(text) for text in texts]
        stored = self._vectors(list(dict.fromkeys(hashes)))
        rows = np.stack([np.frombuffer(stored[hash], dtype="<f4") for hash in hashes])
        return torch.from_numpy(rows.astype(np.float32))

    def _vectors(self, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        vectors: dict[bytes, bytes] = {}
        for start in range(0, len(hashes), LOOKUP_BATCH):
            part = hashes[start : start + LOOKUP_BATCH]
            marks = ",".join("?" * len(part))
            try:
                rows = self._connection.execute(f"SELECT hash, vector FROM texts WHERE hash IN ({marks})", part)
                vectors.update(rows.fetchall())
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from None
        return vectors

    def _unusable(self, error: Exception) -> BadInput:
        remedy = "make room, or delete the file to have them made again"
        return BadInput(f"cannot use the kept vectors of texts, {self.path}: {error}; {remedy}")

    def close(self) -> None:
        """Close the database; the store cannot be used afterwards."""
        self._connection.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hash_text(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
