"""Files that were cut short or changed after they were written: told by size and checksum, and made anew where they can be."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from milan.errors import BadInput, MilanNotice
from milan.storage import atomic, content_key
from milan.text_files import read_json_object

T = TypeVar("T")
HASHED = 64 * 2**20  # bytes; of a larger file only the size is looked at
Marks = dict[str, list[Any]]  # by a file's name its size in bytes and its sha256, empty for large files


def checksums(folder: Path, names: Iterable[str]) -> Marks:
    """Size and sha256 of files in a folder, as ``damage`` compares them."""
    return {name: _mark(folder / name) for name in names}


def damage(folder: Path, marks: Mapping[str, Any]) -> str:
    """What is wrong with the first file that is not as it was when ``checksums`` saw it, to stand in a sentence; empty if all are."""
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
    """Whether facts that were read list files of the folder under ``files``, and these are as they were when ``checksums`` saw them."""
    files = facts.get("files") if facts else None
    return isinstance(files, dict) and not damage(folder, files)


def _mark(file: Path) -> list[Any]:
    size = file.stat().st_size
    return [size, hashlib.sha256(file.read_bytes()).hexdigest() if size <= HASHED else ""]


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for a JSON file, with a checksum of their own, by which ``read_sealed`` knows that nothing has changed them.

    >>> sealed({"a": 1})
    {'a': 1, 'checksum': '015abd7f5cc57a2d'}
    """
    return {**facts, "checksum": content_key(**facts)}


def read_sealed(file: Path) -> dict[str, Any]:
    """What ``sealed`` facts a file holds.

    Raises:
        BadInput: it cannot be read, holds no such facts, or they were changed.
    """
    found = read_json_object(file)
    if sealed({name: value for name, value in found.items() if name != "checksum"}) != found:
        raise BadInput(f"{file} is damaged or was changed (its checksum differs)")
    return found


def json_or_none(file: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None where there is no such file or it is damaged."""
    with suppress(BadInput):
        return read_json_object(file)
    return None


def made_once(file: Path, make: Callable[[Path], object], read: Callable[[Path], T]) -> T:
    """What ``read`` gives of a file that ``make`` writes, to the path that it is given, where there is none or it is damaged.

    ``read`` must raise for a file that was cut short, as ``numpy.load`` does.
    """
    if file.is_file():
        try:
            return read(file)
        except Exception as error:  # whatever a damaged file makes its reader stumble over
            warnings.warn(f"{file} is damaged ({' '.join(str(error).split())[:200]}) and is made anew", MilanNotice, stacklevel=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as partial:
        make(partial)
    return read(file)
