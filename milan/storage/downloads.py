"""Download files into the cache: interrupted downloads are resumed, and every file is pinned by its SHA-256."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, MilanNotice
from milan.storage.archives import MAKE_ROOM
from milan.storage.files import cache_root, wait_for_folder, write_text
from milan.storage.hub_access import is_offline
from milan.storage.integrity import json_or_none

if TYPE_CHECKING:
    import httpx

# Bytes; the largest published file that the package downloads (annotations with images) is smaller.
MAX_BYTES = 100 * 2**30
HTML_STARTS = (b"<!doctype html", b"<html", b"<?xml")
MAX_REDIRECTS = 5


@dataclass(frozen=True)
class DownloadOptions:
    """Timeouts and retries of requests.

    Attributes:
        timeout: seconds without a byte after which a connection counts as cut off.
        tries: attempts in a row that may bring no new byte.
        pause: seconds between two such attempts.
    """

    timeout: float = 30.0
    tries: int = 3
    pause: float = 1.0


@dataclass(frozen=True)
class RemoteFile:
    """A published file and its place on this machine.

    Attributes:
        url: its address.
        name: path under the ``downloads`` folder of the cache.
        sha256: its published checksum; if empty, the first download decides it.
    """

    url: str
    name: str
    sha256: str = ""

    @property
    def path(self) -> Path:
        """Path of the file on this machine."""
        return cache_root() / "downloads" / self.name

    @property
    def record(self) -> Path:
        """The JSON file with address, size and SHA-256 of what was downloaded."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def partial(self) -> Path:
        """What an interrupted download has left."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def pin(self) -> str:
        """The SHA-256 that the file must have; empty before the first download."""
        return self.sha256 or str((json_or_none(self.record) or {}).get("sha256", ""))


class _Retry(Exception):
    """The connection was cut off or refused for now."""


class _Reply(NamedTuple):
    """The headers of a reply: the byte it starts at, the file's whole length, and its version."""

    start: int
    total: int | None
    version: str


def fetch(
    remote: RemoteFile, *, check: Callable[[Path], object] | None = None, options: DownloadOptions | None = None
) -> Path:
    """Return the path of a published file, which is downloaded if it is not in the cache.

    An interrupted download continues where it stopped, also in a later run. Size and SHA-256 are kept in a JSON file
    beside the file, and a file that no longer has them is downloaded again.

    Args:
        check: reads the downloaded file and raises if it is not what was expected; the file is then not kept.
        options: time limits and attempts.

    Raises:
        BadInput: the file is not in the cache and cannot be downloaded (offline, no answer, an error status, a web page
            instead of a file, a wrong length, another SHA-256 than before), or the disk is full.
    """
    if _is_sound(remote):
        return remote.path
    if is_offline():
        raise BadInput(f"{remote.url} is not in the cache ({remote.path}), and this run is offline; {_manual(remote)}")
    try:
        with wait_for_folder(remote.path.parent):
            if not _is_sound(remote):
                _download(remote, check, options or DownloadOptions())
    except OSError as error:
        raise BadInput(f"cannot write {remote.path}: {error.strerror}; {MAKE_ROOM}") from None
    return remote.path


def _manual(remote: RemoteFile) -> str:
    return f"download it on another machine and put it there, or set MILAN_CACHE to a cache that has {remote.name}"


def is_downloaded(remote: RemoteFile) -> bool:
    """Return whether the file is in the cache; its content is not checked."""
    return remote.path.is_file()


def _is_sound(remote: RemoteFile) -> bool:
    """Return whether the file is in the cache and has its SHA-256; a file that somebody put there is pinned now."""
    if not remote.path.is_file():
        return False
    pin, digest = remote.pin, _sha256(remote.path)
    if not pin:
        _pin(remote, digest)
    elif pin != digest:
        text = f"{remote.path} was changed or is damaged (SHA-256 {digest}, not {pin})"
        if is_offline():
            raise BadInput(f"{text}, and this run is offline; delete it, or {_manual(remote)}")
        warnings.warn(f"{text}; it is downloaded again", MilanNotice, stacklevel=3)
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pin(remote: RemoteFile, sha256: str) -> None:
    facts = {"url": remote.url, "size": remote.path.stat().st_size, "sha256": sha256}
    write_text(remote.record, json.dumps(facts, indent=1) + "\n")


def _download(remote: RemoteFile, check: Callable[[Path], object] | None, options: DownloadOptions) -> None:
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    warnings.warn(f"downloading {remote.url} to {remote.path}", MilanNotice, stacklevel=4)
    _receive_all(remote, options)
    digest = _sha256(remote.partial)
    try:
        if remote.pin and digest != remote.pin:
            accept = "" if remote.sha256 else f"; if the new file is right, delete {remote.record}"
            raise BadInput(f"{remote.url} has SHA-256 {digest}, not {remote.pin} as expected; it is not used{accept}")
        if check is not None:
            check(remote.partial)
    except Exception:
        _discard(remote)
        raise
    os.replace(remote.partial, remote.path)  # noqa: PTH105 (as atomic_write does)
    _facts_file(remote).unlink(missing_ok=True)
    _pin(remote, digest)
    size = remote.path.stat().st_size
    warnings.warn(f"{remote.path}: {size:,} bytes, SHA-256 {digest}", MilanNotice, stacklevel=4)


def _receive_all(remote: RemoteFile, options: DownloadOptions) -> None:
    """Fill the partial file, over as many connections as it takes."""
    import httpx

    failures = 0
    limits: dict[str, Any] = {"timeout": options.timeout, "follow_redirects": True, "max_redirects": MAX_REDIRECTS}
    with httpx.Client(**limits) as client:
        while True:
            before = _size(remote.partial)
            try:
                _receive(remote, client)
                return
            except (_Retry, httpx.TransportError) as error:
                if isinstance(error, httpx.UnsupportedProtocol):
                    raise BadInput(f"{remote.url} leads to an address that is neither http nor https") from None
                failures = failures + 1 if _size(remote.partial) <= before else 1
                if failures >= options.tries:
                    raise _incomplete(remote, error) from None
                time.sleep(options.pause if failures > 1 else 0)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise BadInput(
                    f"cannot download {remote.url}: {clean_text(str(error)) or type(error).__name__}"
                ) from None


def _incomplete(remote: RemoteFile, error: Exception) -> BadInput:
    """Return the error after the last attempt."""
    reason = clean_text(str(error)) or type(error).__name__
    have, total = _size(remote.partial), (json_or_none(_facts_file(remote)) or {}).get("total")
    if not have:
        return BadInput(f"cannot download {remote.url}: {reason}; {_manual(remote)}")
    of = f" of {total:,}" if total else ""
    return BadInput(f"{remote.url} stopped after {have:,}{of} bytes ({reason}); run again to continue there")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _facts_file(remote: RemoteFile) -> Path:
    """Return the path of the facts about a partial file: its version on the server, and the whole length."""
    return remote.partial.with_name(remote.partial.name + ".json")


def _discard(remote: RemoteFile) -> None:
    remote.partial.unlink(missing_ok=True)
    _facts_file(remote).unlink(missing_ok=True)


def _receive(remote: RemoteFile, client: "httpx.Client") -> None:
    """Append what one connection brings to the partial file.

    Raises:
        _Retry: the connection brought less than the whole rest.
        BadInput: what it brings is not the file.
    """
    facts, have = json_or_none(_facts_file(remote)) or {}, _size(remote.partial)
    if have and facts.get("url") != remote.url:
        _discard(remote)
        facts, have = {}, 0
    # Compressed on the way, lengths and positions would not be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        headers |= {"If-Range": facts["version"]} if facts.get("version") else {}
    with client.stream("GET", remote.url, headers=headers) as response:
        reply = _read_head(remote, response, have, facts)
        write_text(
            _facts_file(remote), json.dumps({"url": remote.url, "total": reply.total, "version": reply.version}) + "\n"
        )
        _append(remote, response.iter_raw(), reply)
    have = _size(remote.partial)
    if reply.total is not None and have < reply.total:
        raise _Retry(f"the connection ended after {have:,} of {reply.total:,} bytes")


def _read_head(remote: RemoteFile, response: "httpx.Response", have: int, facts: dict[str, Any]) -> _Reply:
    status, headers = response.status_code, response.headers
    if status == 416 or (status == 206 and _content_range(headers)[0] != have):
        _discard(remote)
        raise _Retry("the server cannot continue the download; it starts again")
    if status >= 500 or status == 429:
        raise _Retry(f"the server answers with status {status}")
    if status not in (200, 206):
        raise BadInput(f"cannot download {remote.url}: the server answers with status {status}; {_manual(remote)}")
    if headers.get("content-encoding", "identity") != "identity":
        raise BadInput(f"{remote.url} is sent compressed ({headers['content-encoding']}), so its length is unknown")
    if headers.get("content-type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise _web_page(remote)
    total = _content_range(headers)[1] if status == 206 else _length(headers)
    if status == 206 and total != facts.get("total"):
        _discard(remote)
        raise _Retry("the file on the server has changed; the download starts again")
    if total is None and not remote.sha256 and headers.get("transfer-encoding") != "chunked":
        raise BadInput(
            f"{remote.url} comes without a length, so nobody can tell whether it is whole; {_manual(remote)}"
        )
    if total is not None:
        _check_total(remote, total)
    return _Reply(have if status == 206 else 0, total, headers.get("etag") or headers.get("last-modified") or "")


def _check_total(remote: RemoteFile, total: int) -> None:
    if not 0 < total <= MAX_BYTES:
        raise BadInput(f"{remote.url} has {total:,} bytes; 1 to {MAX_BYTES:,} were expected")
    free = shutil.disk_usage(remote.path.parent).free
    if total - _size(remote.partial) > free:
        raise BadInput(f"{remote.url} has {total:,} bytes, and {free:,} are free for {remote.path}; {MAKE_ROOM}")


def _length(headers: Any) -> int | None:
    with contextlib.suppress(ValueError, KeyError):
        return int(headers["content-length"])
    return None


def _content_range(headers: Any) -> tuple[int, int | None]:
    """Return the first byte and the whole length in ``bytes 5-9/10``; -1 and None if they are missing."""
    with contextlib.suppress(ValueError, KeyError):
        place, _, total = headers["content-range"].removeprefix("bytes ").partition("/")
        return int(place.partition("-")[0]), int(total)
    return -1, None


def _append(remote: RemoteFile, chunks: Iterator[bytes], reply: _Reply) -> None:
    size = reply.start
    with remote.partial.open("ab" if reply.start else "wb") as file:
        for chunk in chunks:
            if not size and chunk.lstrip()[:16].lower().startswith(HTML_STARTS):
                file.close()
                _discard(remote)
                raise _web_page(remote)
            size += len(chunk)
            if size > (MAX_BYTES if reply.total is None else reply.total):
                file.close()
                _discard(remote)
                raise BadInput(f"{remote.url} sends more than the {reply.total or MAX_BYTES:,} bytes it announced")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if not size:
        _discard(remote)
        raise BadInput(f"{remote.url} is empty; {_manual(remote)}")


def _web_page(remote: RemoteFile) -> BadInput:
    return BadInput(
        f"{remote.url} answers with a web page, not a file (perhaps a login page or a proxy); {_manual(remote)}"
    )
