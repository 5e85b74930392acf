"""Unpack untrusted archives: no file outside the folder, no links, no more bytes than allowed."""

import calendar
import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
MAX_UNPACKED_BYTES = 200 * 2**30  # ImageNet's training set has 150 GB
_BLOCK = 4096  # bytes that the smallest file takes on disk
_LATEST_TIME = 2**32  # seconds since 1970 that every file system can store (the year 2106)


MAKE_ROOM = "make room, or set MILAN_CACHE to a folder on a larger disk"
# What damaged archives raise besides the libraries' own errors: decompressors, encryption, invalid numbers.
_DAMAGE = (zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError, OverflowError, LookupError)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    modified: int
    is_folder: bool
    is_file: bool
    open: Callable[[], Any]  # a binary stream


def is_archive(path: Path) -> bool:
    """Return whether a file's name is that of an archive.

    >>> is_archive(Path("photos.tar.gz")), is_archive(Path("photos.gz"))
    (True, False)
    """
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Unpack a zip or tar file to ``folder``, which appears complete or not at all; files keep their times.

    Raises:
        BadInput: the file is not an archive, or is damaged; a member would be outside the folder, is a link or a
            device, or occurs twice; or the members exceed ``max_bytes`` bytes or the free space of the disk.
    """
    half = folder.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with _open_members(archive) as opened:
            members = _checked(archive, opened, max_bytes, free_bytes(folder))
            half.mkdir(parents=True)
            _extract_members(members, half)
        _publish_folder(half, folder)
    # Of the disk, or of the library that reads the archive.
    except OSError as error:
        remedy = f"; {MAKE_ROOM}" if error.errno == errno.ENOSPC else ""
        reason = error.strerror or str(error)
        raise BadInput(
            f"cannot unpack {clean_text(str(archive))} to {folder.parent}: {clean_text(reason)}{remedy}"
        ) from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk where ``folder`` is or would be created."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def _publish_folder(half: Path, folder: Path) -> None:
    try:
        half.rename(folder)
    except OSError:
        # If the folder exists, another process has unpacked the same content meanwhile.
        if not folder.is_dir():
            raise


@contextmanager
def _open_members(archive: Path) -> Iterator[Iterator[_Member]]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as inside:
                yield (_read_zip_member(inside, item) for item in inside.infolist())
        else:
            with tarfile.open(archive) as packed:
                yield (_read_tar_member(packed, item) for item in packed)
    except (zipfile.BadZipFile, tarfile.TarError, *_DAMAGE) as error:
        raise BadInput(f"cannot unpack {clean_text(str(archive))}: {clean_text(str(error))}") from None


def _read_zip_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(item.external_attr >> 16)
    try:
        time = calendar.timegm((*item.date_time, 0, 0, 0))
    # Tools that store no time write month 0.
    except ValueError:
        time = 0
    plain = kind in (0, stat.S_IFREG) and not item.is_dir()
    return _Member(
        item.filename,
        item.file_size,
        time,
        item.is_dir() and kind in (0, stat.S_IFDIR),
        plain,
        partial(archive.open, item),
    )


def _read_tar_member(archive: tarfile.TarFile, item: tarfile.TarInfo) -> _Member:
    # The field may hold any decimal number, including NaN and infinity.
    time = int(item.mtime) if 0 <= item.mtime < _LATEST_TIME else 0
    return _Member(item.name, item.size, time, item.isdir(), item.isreg(), partial(archive.extractfile, item))


def _checked(archive: Path, members: Iterable[_Member], limit: int, free: int) -> list[_Member]:
    """Return the members if all of them may be unpacked; members after a refused one are not read."""
    refused = f"{clean_text(str(archive))} is refused: "
    total = taken = 0
    checked = []
    seen_paths: set[PurePosixPath] = set()
    files: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        name = clean_text(member.name)
        if path.is_absolute() or ".." in path.parts or (member.is_file and not path.parts) or "\0" in member.name:
            raise BadInput(f"{refused}{name!r} would be outside the folder that it is unpacked to")
        if not member.is_folder and not member.is_file:
            raise BadInput(f"{refused}{name!r} is a link or a device, not a file")
        if (member.is_file and path in seen_paths) or not files.isdisjoint(
            [path, *path.parents] if member.is_folder else path.parents
        ):
            raise BadInput(f"{refused}{name!r} occurs twice")
        seen_paths.add(path)
        if member.is_file:
            files.add(path)
            seen_paths.update(path.parents)
        total += member.size
        taken += (member.size // _BLOCK + 1) * _BLOCK
        if total > limit:
            raise BadInput(f"{refused}{total:,} bytes unpacked, more than {limit:,}")
        if taken > free:
            raise BadInput(f"{refused}it takes {taken:,} bytes unpacked, and {free:,} are free; {MAKE_ROOM}")
        checked.append(member)
    return checked


def _extract_members(members: list[_Member], folder: Path) -> None:
    for member in members:
        target = folder / member.name.replace("\\", "/")
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # Neither library reads more of a member than its header states.
        with member.open() as source, target.open("xb") as written:
            shutil.copyfileobj(source, written)
        os.utime(target, (member.modified, member.modified))
