"""Files that are whole or absent, results found by content, and journals that survive a kill."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import socket
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from milan.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

PACKAGES = ("milan", "torch", "torchvision", "pytorch-lightning", "transformers", "timm", "datasets", "numpy", "pillow", "safetensors")
_PARTIAL = ".partial-"
_FULL_DISK = re.compile(
    r"\(os error (?:28|122|27)\)"  # safetensors: ENOSPC, EDQUOT, EFBIG
    r"|^\d+ requested and \d+ written"  # numpy.save
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"  # torch.save
)
_PLAIN_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
# names that Windows gives to devices, whatever their suffix
_RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{one}" for port in ("com", "lpt") for one in "0123456789")}
_held: set[Path] = set()  # folders this process has locked: POSIX locks do not stop a process from locking twice


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` to write to; what was written appears under ``path`` whole, or not at all.

    The temporary name keeps the suffix, since savers such as ``numpy.save`` look at it. What a killed process leaves behind is
    removed by the next ``locked``.

    Raises:
        OSError: as the block raises; ``ENOSPC`` with the file's name however a saver reports a full disk.
    """
    path = Path(path)
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except Exception as error:
        if _is_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _is_full_disk(error: Exception) -> bool:
    """Whether an error says that there is no room: safetensors, numpy and torch do it in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return _FULL_DISK.search(str(error)) is not None


def new_array(file: Path, kind: type, shape: tuple[int, ...]) -> "np.memmap":
    """Create a .npy file and map it for writing, with its space taken on disk.

    Without that a full disk would be noticed when a page of the map is written, by a signal that kills the process.

    Raises:
        OSError: there is no room.
    """
    import numpy as np  # not needed for --help

    array = np.lib.format.open_memmap(file, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def content_key(**parts: object) -> str:
    """Sixteen hexadecimal digits that stand for these plain values, whatever order they are given in.

    >>> content_key(k=15, layers=["a", "b"]) == content_key(layers=("a", "b"), k=15)
    True
    >>> content_key(k=15) == content_key(k=16)
    False

    Raises:
        BadInput: a value is not plain (text, number, bool, None, path, or lists and dicts of these).
    """
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_path_text)
    except (TypeError, ValueError) as error:
        raise BadInput(f"no content key of {parts!r:.200}: {error}; give texts, numbers, lists and dicts of these") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder`` (made if absent) for this process alone, and clears what a killed holder left half written.

    The lock is the kernel's, so it ends with its holder even on ``kill -9``; the file tells who holds it. A lock file left by
    another machine cannot be looked through and is respected.

    Raises:
        BadInput: the folder is a file, cannot be written, or is held by another process.
    """
    folder = Path(folder)
    file = _open_lock(folder)
    try:
        _held.add(folder.resolve())
        _clear_partials(folder)
        yield
    finally:
        _held.discard(folder.resolve())
        with suppress(FileNotFoundError):  # someone removed the folder meanwhile: there is nothing left to unlock
            _lock_path(folder).unlink()
        file.close()


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Waits until no other process is within such a block for ``folder`` (made if absent); for what several need and one makes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".turn").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel's, so it ends with its holder; the file stays, or two could hold two of them
        yield


class Journal(AbstractContextManager["Journal"]):
    """Finished items of a run, by id, in SQLite; each is on disk when ``put`` returns, and a killed run loses none.

    A journal opened with another key than it was written with starts afresh: what it holds answers another question.
    """

    def __init__(self, path: Path, key: str):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=30)
            self._begin(key)
        except (sqlite3.DatabaseError, OSError) as error:
            remedy = "make room there" if "full" in str(error) else "delete it to start afresh"
            raise BadInput(f"cannot use the journal {self.path}: {error}; {remedy}") from None

    def _begin(self, key: str) -> None:
        with self._base as base:
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            base.execute("CREATE TABLE IF NOT EXISTS items (row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, value TEXT NOT NULL)")
            if base.execute("SELECT value FROM facts WHERE name = 'key'").fetchone() != (key,):
                base.execute("DELETE FROM items")
                base.execute("INSERT OR REPLACE INTO facts VALUES ('key', ?)", (key,))

    def get(self, id: str) -> dict | None:
        """What was put under ``id``, or None."""
        found = self._base.execute("SELECT value FROM items WHERE id = ?", (json.dumps(id),)).fetchone()
        return json.loads(found[0]) if found else None

    def put(self, id: str, value: dict) -> None:
        """Keeps ``value`` (plain values only) under ``id``, in place of what was there.

        Raises:
            BadInput: it cannot be written, as on a full disk; what was put before is kept.
        """
        row = json.dumps(id), json.dumps(value)  # JSON is ASCII, so surrogates in file names cannot upset SQLite
        try:
            with self._base as base:
                base.execute("INSERT INTO items (id, value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value", row)
        except sqlite3.OperationalError as error:
            raise BadInput(f"cannot write to the journal {self.path}: {error}; what was finished is kept, run again to continue") from None

    def ids(self) -> list[str]:
        """All ids, in the order in which they were first put."""
        return [json.loads(id) for (id,) in self._base.execute("SELECT id FROM items ORDER BY row")]

    def close(self) -> None:
        self._base.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@cache
def _git_hash() -> str | None:
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    return None


def versions() -> dict[str, str]:
    """What a result was made with: python, milan and the libraries that decide numbers; ``git`` in a checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    git = _git_hash()
    return found | ({"git": git} if git else {})


def safe_name(text: str) -> str:
    """A file name that stands for ``text`` on every file system and in a URL, and that no other text has.

    Short plain lower-case names are kept. Others, such as those that differ in case only, end in a hash of the text.

    >>> safe_name("layer4.1.conv2"), safe_name("Conv/1"), safe_name("..")
    ('layer4.1.conv2', 'Conv_1-dacd7473', '_-5ec1f7e7')
    """
    if _PLAIN_NAME.fullmatch(text) and text.partition(".")[0] not in _RESERVED_NAMES:
        return text
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:60].strip(".-") or "_"
    return f"{readable}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def cache_folder() -> Path:
    """Where what can be made again is kept: ``$MILAN_CACHE``, else ``~/.cache/milan``."""
    chosen = os.environ.get("MILAN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "milan"


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r:.80} is not a plain value")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _lock_path(folder: Path) -> Path:
    return folder / ".lock"


def _open_lock(folder: Path) -> TextIO:
    if folder.resolve() in _held:
        raise BadInput(f"{folder} is already being written by this process (pid {os.getpid()}); choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = _lock_path(folder).open("a+")
            taken = False
            try:
                taken = _take(file, folder)
            finally:
                if not taken:
                    file.close()
            if taken:
                return file
    except FileExistsError:
        raise BadInput(f"{folder} is a file; name a folder to write to") from None
    except NotADirectoryError:
        raise BadInput(f"{folder} cannot be made: part of its path is a file; name another folder to write to") from None
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}; name another folder, or free space and rights there") from None


def _take(file: TextIO, folder: Path) -> bool:
    """Locks the open file and signs it; False if it was removed meanwhile by a holder that ended."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BadInput(f"{folder} is being written by {_holder(file)}; wait for it, or choose another folder") from None
    try:
        if os.fstat(file.fileno()).st_ino != _lock_path(folder).stat().st_ino:
            return False
    except FileNotFoundError:
        return False
    if _elsewhere(file):
        raise BadInput(f"{folder} is being written by {_holder(file)}; if that process has ended, delete {_lock_path(folder)}")
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot()}))
    file.flush()
    return True


def _signature(file: TextIO) -> dict:
    file.seek(0)
    try:
        signed = json.loads(file.read())
    except ValueError:  # killed before it had signed
        return {}
    return signed if isinstance(signed, dict) else {}


def _holder(file: TextIO) -> str:
    signed = _signature(file)
    return f"process {signed['pid']} on {signed['host']}" if {"pid", "host"} <= signed.keys() else "another process"


def _elsewhere(file: TextIO) -> bool:
    """Whether the last holder was on another machine: the kernel's lock tells nothing of it there."""
    signed = _signature(file)
    return bool(signed) and signed.get("host") != socket.gethostname() and signed.get("boot") != _boot()


@cache
def _boot() -> str:
    """The running kernel's id, which containers on one machine share though their host names differ."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _clear_partials(folder: Path) -> None:
    for leftover in folder.rglob(f"{_PARTIAL}*"):
        pid = leftover.name.removeprefix(_PARTIAL).partition("-")[0]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():  # another process of this run may be writing
            leftover.unlink(missing_ok=True)
