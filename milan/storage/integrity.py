"""Detect files that were truncated or changed after they were written, and compute them again."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from milan.errors import BadInput, MilanNotice
from milan.storage.files import atomic_write, content_key
from milan.storage.text_files import read_json_object

T = TypeVar("T")
MAX_HASHED_BYTES = 64 * 2**20  # of a larger file only the size is compared
Marks = dict[str, list[Any]]  # by file name: size in bytes, and sha256 (empty for large files)


def checksums(folder: Path, names: Iterable[str]) -> Marks:
    """Return size and sha256 of files in a folder, for ``damage`` to compare."""
    return {name: _mark(folder / name) for name in names}


def damage(folder: Path, marks: Mapping[str, Any]) -> str:
    """Return what is wrong with the first file that differs from its ``checksums``; empty if all are unchanged."""
    for name, before in marks.items():
        try:
            now = _mark(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if now[0] != before[0]:
            return f"{name} is damaged ({now[0]} bytes instead of {before[0]})"
        if now != before:
            return f"{name} is damaged (its checksum differs)"
    return ""


def is_sound(facts: dict[str, Any] | None, folder: Path) -> TypeGuard[dict[str, Any]]:
    """Return whether ``facts["files"]`` equals the ``checksums`` of the folder's files now."""
    files = facts.get("files") if facts else None
    return isinstance(files, dict) and not damage(folder, files)


def _mark(file: Path) -> list[Any]:
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        return [size, hashlib.file_digest(content, "sha256").hexdigest() if size <= MAX_HASHED_BYTES else ""]


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts with a checksum, by which ``read_sealed`` detects changes.

    >>> sealed({"a": 1})
    {'a': 1, 'checksum': '015abd7f5cc57a2d'}
    """
    return {**facts, "checksum": content_key(**facts)}


def read_sealed(file: Path) -> dict[str, Any]:
    """Read facts that were written with ``sealed``.

    Raises:
        BadInput: the file cannot be read, has no such facts, or was changed.
    """
    stored = read_json_object(file)
    if sealed({name: value for name, value in stored.items() if name != "checksum"}) != stored:
        raise BadInput(f"{file} is damaged or was changed (its checksum differs)")
    return stored


def json_or_none(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if the file does not exist or is damaged."""
    with suppress(BadInput):
        return read_json_object(file)
    return None


def made_once(file: Path, make: Callable[[Path], object], read: Callable[[Path], T]) -> T:
    """Read a file of the cache; if it is missing or damaged, compute it first.

    Args:
        file: the cached file.
        make: writes the file to the path that it is given.
        read: reads the file, and raises for a truncated one, as ``numpy.load`` does.
    """
    if file.is_file():
        try:
            return read(file)
        # A damaged file can make its reader raise anything; a bug in the reader is raised again below.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"{file} is damaged ({reason}) and is made again", MilanNotice, stacklevel=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as partial:
        make(partial)
    return read(file)
