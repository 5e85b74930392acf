"""Atomic files, folder locks, content keys and the cache folder."""

import errno
import hashlib
import json
import math
import os
import re
import socket
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from milan.errors import BadInput, MilanNotice

if TYPE_CHECKING:
    import numpy as np

# Format of cached results. Version 0.1 stored its results beside the folder that is named after the format.
CACHE_FORMAT = 2
_CACHE_FOLDERS_0_1 = (
    *("captions", "concepts", "embeddings", "features", "next_layer"),
    *("overlap", "pictures", "replies", "segmented", "thresholds"),
)
MIN_SCRATCH_BYTES = 2**22  # smallest array that is mapped from a file
_PARTIAL = ".partial-"
_FULL_DISK = re.compile(
    r"\(os error (?:28|122|27)\)"  # safetensors: ENOSPC, EDQUOT, EFBIG
    r"|^\d+ requested and \d+ written"  # numpy.save
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"  # torch.save
)
_PLAIN_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
# Names of devices on Windows, with any suffix.
_RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{one}" for port in ("com", "lpt") for one in "0123456789")}
_LOCK, _HOLDER, _TURN = ".lock", ".holder", ".turn"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` when the block ends without an exception.

    The temporary name has the same suffix, because savers such as ``numpy.save`` depend on it. Files that a killed
    process left behind are removed by the next ``lock_folder``.

    Raises:
        OSError: as raised in the block; a full disk is always ``ENOSPC`` with the file's name.
    """
    path = Path(path)
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
        _fsync(path.parent)
    except Exception as error:
        if _is_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _is_full_disk(error: Exception) -> bool:
    """Return whether an error is about a full disk; safetensors, numpy and torch say so only in the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return _FULL_DISK.search(str(error)) is not None


def new_array(file: Path, kind: type, shape: tuple[int, ...]) -> "np.memmap":
    """Create a .npy file with its space allocated on disk, and map it for writing.

    Without the allocation, a full disk would kill the process by a signal when a page of the map is written.

    Raises:
        OSError: the disk is full.
    """
    import numpy as np  # not needed for --help

    array = np.lib.format.open_memmap(file, "w+", kind, shape)
    with file.open("r+b") as opened:
        _allocate(opened.fileno(), file.stat().st_size)
    return array


def new_scratch_array(folder: Path, kind: type, shape: tuple[int, ...]) -> "np.ndarray":
    """Return an array of zeros, mapped from a file without a name in ``folder`` (created if absent) if it is large.

    The system takes back the memory of its pages when it needs it. The file ends with the array.

    Raises:
        BadInput: the folder cannot be written, or the disk is full.
    """
    import numpy as np  # not needed for --help

    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < MIN_SCRATCH_BYTES:
        return np.zeros(shape, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            _allocate(file.fileno(), size)
            return np.memmap(file, kind, "r+", shape=shape)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _allocate(file: int, size: int) -> None:
    # macOS does not have this function.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


def content_key(**parts: object) -> str:
    """Return sixteen hexadecimal digits that identify these plain values, independent of their order.

    >>> content_key(k=15, layers=["a", "b"]) == content_key(layers=("a", "b"), k=15)
    True
    >>> content_key(k=15) == content_key(k=16)
    False

    Raises:
        BadInput: a value is not plain: text, number, bool, None, path, or lists and dicts of these.
    """
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_serialize_path)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"no content key of {parts!r:.200}: {error}; give texts, numbers, lists and dicts of these"
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock ``folder`` (created if absent) for this process, and remove partial files of killed processes.

    The operating system releases the lock when its holder ends, even on ``kill -9``; a file beside it names the holder.
    A holder on another machine, which the lock may not cover, is respected as long as that file exists.

    Raises:
        BadInput: the folder is a file, is not writable, or is locked by another process or by this one.
    """
    folder = Path(folder)
    lock = _acquire_lock(folder, _LOCK, timeout=0.0)
    try:
        _write_holder(folder)
        try:
            _clear_partials(folder)
            yield
        finally:
            (folder / _HOLDER).unlink(missing_ok=True)
            # Safe while the lock is held: a process that has opened the removed file notices and opens a new one.
            with suppress(OSError):
                (folder / _LOCK).unlink()
    finally:
        lock.release()


@contextmanager
def wait_for_folder(folder: Path) -> Iterator[None]:
    """Run the block while no other process is in such a block for ``folder`` (created if absent).

    Raises:
        BadInput: the folder is a file or is not writable.
    """
    lock = _acquire_lock(folder, _TURN, timeout=-1.0)
    try:
        yield
    finally:
        lock.release()


def check_folder(folder: Path) -> None:
    """Raise BadInput if a folder is a file, or cannot be created or written to; nothing is created."""
    present = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.access(each, os.F_OK))
    if not present.is_dir():
        raise _unwritable(folder, FileExistsError() if present == folder.absolute() else NotADirectoryError())
    if not os.access(present, os.W_OK):
        raise _unwritable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def is_file(path: Path) -> bool:
    """Return whether there is such a file; a text that is too long for a path is none."""
    with suppress(OSError):
        return path.is_file()
    return False


def safe_name(text: str) -> str:
    """Return a unique file name for ``text`` that is valid on every file system and in a URL.

    Short plain lower-case names are unchanged. Others, such as names that differ in case only, end in a hash.

    >>> safe_name("layer4.1.conv2"), safe_name("Conv/1"), safe_name("..")
    ('layer4.1.conv2', 'Conv_1-dacd7473', '_-5ec1f7e7')
    """
    if _PLAIN_NAME.fullmatch(text) and text.partition(".")[0] not in _RESERVED_NAMES:
        return text
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:60].strip(".-") or "_"
    return f"{readable}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def cache_root() -> Path:
    """Return the folder of the cache: ``$MILAN_CACHE``, else ``~/.cache/milan``."""
    chosen = os.environ.get("MILAN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "milan"


def cache_folder() -> Path:
    """Return the folder of the cache for this version's format; results in other formats are never read."""
    root = cache_root()
    folder = root / f"format-{CACHE_FORMAT}"
    old = [name for name in _CACHE_FOLDERS_0_1 if (root / name).is_dir()]
    if old and not folder.exists():
        text = f"{root} has results of milan 0.1 ({', '.join(old)}); they are made again in {folder} when needed"
        warnings.warn(f"{text}; delete the old ones to free disk space", MilanNotice, stacklevel=2)
    return folder


def _serialize_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r:.80} is not a plain value")


def _fsync(path: Path) -> None:
    # Windows cannot open folders.
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _acquire_lock(folder: Path, name: str, timeout: float) -> BaseFileLock:
    """Acquire the lock file ``name`` in ``folder``; a negative ``timeout`` (in seconds) waits without limit."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire(timeout)
    except Timeout:
        held = f"{folder} is being written by {_format_owner(folder)}"
        raise BadInput(f"{held}; wait for it, or choose another folder") from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    return lock


def _write_holder(folder: Path) -> None:
    """Record this process as the holder of the folder."""
    signed = _read_owner(folder)
    if signed and signed.get("host") != socket.gethostname() and signed.get("boot") != _read_boot_id():
        held = f"{folder} is being written by {_format_owner(folder)}"
        raise BadInput(f"{held}; if that process has ended, delete {folder / _HOLDER}")
    try:
        (folder / _HOLDER).write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": _read_boot_id()})
        )
    except OSError as error:
        raise _unwritable(folder, error) from None


def _read_owner(folder: Path) -> dict:
    """Return the record of the folder's holder, or of its last holder if that was killed; empty if there is none."""
    try:
        signed = json.loads((folder / _HOLDER).read_text())
    # The holder may have been killed before it wrote its record.
    except (OSError, ValueError):
        return {}
    return signed if isinstance(signed, dict) else {}


def _format_owner(folder: Path) -> str:
    signed = _read_owner(folder)
    if not {"pid", "host"} <= signed.keys():
        return "another process"
    own = (signed["pid"], signed["host"]) == (os.getpid(), socket.gethostname())
    return f"{'this process' if own else 'process'} {signed['pid']} on {signed['host']}"


def _unwritable(folder: Path, error: OSError) -> BadInput:
    """Return the error about a folder that cannot be created or written to."""
    cached = folder.is_relative_to(cache_folder())
    other = "set MILAN_CACHE to another folder" if cached else "name another folder"
    if isinstance(error, FileExistsError):
        return BadInput(f"{folder} is a file; {other} to write to")
    if isinstance(error, NotADirectoryError):
        return BadInput(f"{folder} cannot be created: part of its path is a file; {other} to write to")
    return BadInput(f"cannot write to {folder}: {error.strerror}; {other}, or make it writable")


@cache
def _read_boot_id() -> str:
    """Return the id of the running kernel, which containers on one machine share although host names differ."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _clear_partials(folder: Path) -> None:
    for leftover in folder.rglob(f"{_PARTIAL}*"):
        pid = leftover.name.removeprefix(_PARTIAL).partition("-")[0]
        # Another process may still be writing.
        if not pid.isdigit() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            leftover.unlink(missing_ok=True)
