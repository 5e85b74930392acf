"""Files that are whole or absent, results found by content, and journals that survive a kill."""

import errno
import hashlib
import json
import os
import platform
import re
import socket
import sqlite3
import subprocess
import uuid
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from milan.errors import BadInput, MilanNotice
from milan.storage.version import __version__

if TYPE_CHECKING:
    import numpy as np

RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "transformers",
    "timm",
    "datasets",
    "numpy",
    "pillow",
    "safetensors",
)
# Format of what the cache keeps. Version 0.1 kept its results beside the folder that is named for the format.
CACHE_FORMAT = 2
_FIRST_CACHE = (
    *("captions", "concepts", "embeddings", "features", "next_layer"),
    *("overlap", "pictures", "replies", "segmented", "thresholds"),
)
_PARTIAL = ".partial-"
_FULL_DISK = re.compile(
    r"\(os error (?:28|122|27)\)"  # safetensors: ENOSPC, EDQUOT, EFBIG
    r"|^\d+ requested and \d+ written"  # numpy.save
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed"  # torch.save
)
_PLAIN_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
# names that Windows gives to devices, whatever their suffix
_RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{one}" for port in ("com", "lpt") for one in "0123456789")}
_LOCK, _HOLDER, _TURN = ".lock", ".holder", ".turn"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` to write to; what was written appears under ``path`` whole, or not at
    all.

    The temporary name keeps the suffix, since savers such as ``numpy.save`` look at it. What a killed process leaves
    behind is removed by the next ``lock_folder``.

    Raises:
        OSError: as the block raises; ``ENOSPC`` with the file's name however a saver reports a full disk.
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
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as partial:
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
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_serialize_path)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"no content key of {parts!r:.200}: {error}; give texts, numbers, lists and dicts of these"
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if absent) for this process alone, and clear what a killed holder left half written.

    The lock is the operating system's and ends with its holder even on ``kill -9``; a file beside it names the holder.
    A holder on another machine, which the lock may not reach, is respected as long as that file is there.

    Raises:
        BadInput: the folder is a file, cannot be written, or is held by another process, or by this one.
    """
    folder = Path(folder)
    lock = _acquired(folder, _LOCK, timeout=0.0)
    try:
        _sign(folder)
        try:
            _clear_partials(folder)
            yield
        finally:
            (folder / _HOLDER).unlink(missing_ok=True)
            # Safe while it is held: whoever has opened the removed file sees that and opens another.
            with suppress(OSError):
                (folder / _LOCK).unlink()
    finally:
        lock.release()


@contextmanager
def wait_for_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process is within such a block for ``folder`` (made if absent): what several need, one makes.

    Raises:
        BadInput: the folder is a file or cannot be written.
    """
    lock = _acquired(folder, _TURN, timeout=-1.0)
    try:
        yield
    finally:
        lock.release()


class Journal(AbstractContextManager["Journal"]):
    """Finished items of a run, by id, in SQLite; each is on disk when ``put`` returns, and a killed run loses none.

    A journal starts empty if it was written with another key or by version 0.1, since its items answer another
    question. Each item has a checksum; one that was changed on disk counts as not finished.

    Raises:
        BadInput: from any method, where the file is damaged or cannot be written.
    """

    def __init__(self, path: Path, key: str):
        self.path = Path(path)
        with self._faults("cannot use"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=30)
            # Damaged text is detected by its checksum.
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            self._open_table(key)

    def _open_table(self, key: str) -> None:
        with self._connection as base:
            base.execute("PRAGMA journal_mode=WAL")
            self._drop_other_format()
            base.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            columns = "row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, value TEXT NOT NULL, checksum INTEGER NOT NULL"
            base.execute(f"CREATE TABLE IF NOT EXISTS items ({columns})")
            if base.execute("SELECT value FROM facts WHERE name = 'key'").fetchone() != (key,):
                base.execute("DELETE FROM items")
                base.execute("INSERT OR REPLACE INTO facts VALUES ('key', ?)", (key,))

    def _drop_other_format(self) -> None:
        """Empty a journal of milan 0.1, whose items have no checksum."""
        columns = [name for _, name, *_ in self._connection.execute("PRAGMA table_info(items)")]
        if columns and "checksum" not in columns:
            (count,) = self._connection.execute("SELECT count(*) FROM items").fetchone()
            self._connection.execute("DROP TABLE items")
            if count:
                text = f"{self.path} holds {count} answers of milan 0.1, which are made again"
                warnings.warn(text, MilanNotice, stacklevel=5)

    def get(self, id: str) -> dict | None:
        """What was put under ``id``, or None."""
        with self._faults("cannot read"):
            query = "SELECT id, value, checksum FROM items WHERE id = ?"
            found = self._connection.execute(query, (json.dumps(id),)).fetchone()
        return json.loads(found[1]) if found and self._sound(*found) else None

    def put(self, id: str, value: dict) -> None:
        """Keeps ``value`` (plain values only) under ``id``, in place of what was there.

        Raises:
            BadInput: it cannot be written, as on a full disk; what was put before is kept.
        """
        name, text = json.dumps(id), json.dumps(value)  # JSON is ASCII, so surrogates in file names cannot upset SQLite
        known = "ON CONFLICT (id) DO UPDATE SET value = excluded.value, checksum = excluded.checksum"
        with self._faults("cannot write to"), self._connection as base:
            query = f"INSERT INTO items (id, value, checksum) VALUES (?, ?, ?) {known}"
            base.execute(query, (name, text, _crc(name, text)))

    def ids(self) -> list[str]:
        """All ids, in the order in which they were first put."""
        with self._faults("cannot read"):
            found = self._connection.execute("SELECT id, value, checksum FROM items ORDER BY row")
            return [json.loads(row[0]) for row in found if self._sound(*row)]

    def _sound(self, id: str, value: str, checksum: int) -> bool:
        """Return whether an item is as it was put."""
        sound = _crc(id, value) == checksum
        if not sound:
            warnings.warn(f"an answer in {self.path} is damaged and is made again", MilanNotice, stacklevel=4)
        return sound

    @contextmanager
    def _faults(self, what: str, remedy: str = "delete it to start afresh") -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            remedy = "what was finished is kept; make room and run again" if "full" in str(error) else remedy
            raise BadInput(f"{what} the journal {self.path}: {error}; {remedy}") from None

    def close(self) -> None:
        self._connection.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _crc(id: str, value: str) -> int:
    return zlib.crc32(f"{id} {value}".encode())


@cache
def _read_git_hash() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    return None


def collect_versions() -> dict[str, str]:
    """What a result was made with: python, milan and the libraries that decide numbers; ``git`` in a checkout."""
    found = {"python": platform.python_version(), "milan": __version__}
    for name in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    git = _read_git_hash()
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


def cache_root() -> Path:
    """Where what can be made again is kept: ``$MILAN_CACHE``, else ``~/.cache/milan``."""
    chosen = os.environ.get("MILAN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "milan"


def cache_folder() -> Path:
    """Return the folder of the cache for this version's formats; results in other formats are never read."""
    root = cache_root()
    folder = root / f"format-{CACHE_FORMAT}"
    old = [name for name in _FIRST_CACHE if (root / name).is_dir()]
    if old and not folder.exists():
        text = f"{root} holds results of milan 0.1 ({', '.join(old)}); those needed are made again in {folder}"
        warnings.warn(f"{text}; delete the old ones to free room", MilanNotice, stacklevel=2)
    return folder


def _serialize_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r:.80} is not a plain value")


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _acquired(folder: Path, name: str, timeout: float) -> BaseFileLock:
    """The lock of the file ``name`` in ``folder``, taken; a negative ``timeout`` (seconds) waits for it without end."""
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


def _sign(folder: Path) -> None:
    """Write down who holds the folder."""
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
    """What the holder of the folder, or the last one where it was killed, wrote of itself."""
    try:
        signed = json.loads((folder / _HOLDER).read_text())
    except (OSError, ValueError):  # killed before it had signed
        return {}
    return signed if isinstance(signed, dict) else {}


def _format_owner(folder: Path) -> str:
    signed = _read_owner(folder)
    if not {"pid", "host"} <= signed.keys():
        return "another process"
    own = (signed["pid"], signed["host"]) == (os.getpid(), socket.gethostname())
    return f"{'this process' if own else 'process'} {signed['pid']} on {signed['host']}"


def _unwritable(folder: Path, error: OSError) -> BadInput:
    """What is told of a folder that cannot be made or written to."""
    cached = folder.is_relative_to(cache_folder())
    other = "set MILAN_CACHE to another folder" if cached else "name another folder"
    if isinstance(error, FileExistsError):
        return BadInput(f"{folder} is a file; {other} to write to")
    if isinstance(error, NotADirectoryError):
        return BadInput(f"{folder} cannot be made: part of its path is a file; {other} to write to")
    return BadInput(f"cannot write to {folder}: {error.strerror}; {other}, or free space and rights there")


@cache
def _read_boot_id() -> str:
    """The running kernel's id, which containers on one machine share though their host names differ."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _clear_partials(folder: Path) -> None:
    for leftover in folder.rglob(f"{_PARTIAL}*"):
        pid = leftover.name.removeprefix(_PARTIAL).partition("-")[0]
        # Another process of this run may be writing.
        if not pid.isdigit() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            leftover.unlink(missing_ok=True)
