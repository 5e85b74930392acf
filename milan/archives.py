"""Unpacks archives that came from elsewhere: nothing lands outside the folder, nothing is linked, nothing fills the disk."""

import calendar
import errno
import lzma
import os
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from milan.command import clean
from milan.errors import BadInput

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
LIMIT = 200 * 2**30  # bytes: ImageNet's training set is 150 GB
_PIECE = 2**20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    time: int
    folder: bool
    file: bool
    open: Callable[[], Any]  # a binary stream


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive.

    >>> is_archive(Path("photos.tar.gz")), is_archive(Path("photos.gz"))
    (True, False)
    """
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, limit: int = LIMIT) -> None:
    """Unpacks a zip or tar file to ``folder``, which appears whole or not at all; files keep their times.

    Raises:
        BadInput: it is no archive; a member would lie outside the folder, is a link or a device, or is there twice; or all of them
            together are more than ``limit`` bytes, whatever the archive says they are.
    """
    half = folder.with_name(f".partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with _members(archive) as members:
            _check(archive, members, limit)
            half.mkdir(parents=True)
            _write(archive, members, half, limit)
        _appear(half, folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadInput(f"cannot unpack {clean(str(archive))}: a name too long for this file system") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _appear(half: Path, folder: Path) -> None:
    try:
        half.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, with the same content
            raise


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as inside:
                yield [_of_zip(inside, item) for item in inside.infolist()]
        else:
            with tarfile.open(archive) as packed:
                yield [_of_tar(packed, item) for item in packed.getmembers()]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise BadInput(f"cannot unpack {clean(str(archive))}: {clean(str(error))}") from None


def _of_zip(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(item.external_attr >> 16)
    time = calendar.timegm((*item.date_time, 0, 0, 0))
    plain = kind in (0, stat.S_IFREG) and not item.is_dir()
    return _Member(item.filename, item.file_size, time, item.is_dir() and kind in (0, stat.S_IFDIR), plain, partial(archive.open, item))


def _of_tar(archive: tarfile.TarFile, item: tarfile.TarInfo) -> _Member:
    return _Member(item.name, item.size, int(item.mtime), item.isdir(), item.isreg(), partial(archive.extractfile, item))


def _check(archive: Path, members: list[_Member], limit: int) -> None:
    refused = f"{clean(str(archive))} is refused: "
    seen: set[PurePosixPath] = set()
    files: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        name = clean(member.name)
        if path.is_absolute() or ".." in path.parts or (member.file and not path.parts) or "\0" in member.name:
            raise BadInput(f"{refused}{name!r} would lie outside the folder it is unpacked to")
        if not member.folder and not member.file:
            raise BadInput(f"{refused}{name!r} is a link or a device, not a file")
        if (member.file and path in seen) or not files.isdisjoint([path, *path.parents] if member.folder else path.parents):
            raise BadInput(f"{refused}{name!r} is in it twice")
        seen.add(path)
        if member.file:
            files.add(path)
            seen.update(path.parents)
    if (total := sum(member.size for member in members)) > limit:
        raise BadInput(f"{refused}{total:,} bytes unpacked, more than {limit:,}")


def _write(archive: Path, members: list[_Member], folder: Path, limit: int) -> None:
    left = limit
    for member in members:
        target = folder / member.name.replace("\\", "/")
        if member.folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as written:
            while piece := source.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise BadInput(f"{clean(str(archive))} is refused: more than {limit:,} bytes unpacked, though it says less")
                written.write(piece)
        os.utime(target, (member.time, member.time))
