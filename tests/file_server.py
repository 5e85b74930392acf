"""A local HTTP server of files that misbehaves as it is reported, one reply after the other."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_SECONDS = 0.15


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` by path, with ranges and an ETag.

    ``faults`` are taken one by reply: ``cut:N`` (the connection ends after N bytes of the body), ``slow`` (a pause
    before the body), ``status:N``, ``html``, ``redirect:PATH_OR_URL``, ``long:N`` and ``short:N`` (the announced length
    is N bytes more or less than the body), ``no-length``, ``no-ranges``, ``changed`` (another ETag and length).
    ``asked`` collects (path, Range header).
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults = files, list[str]()
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        kind, _, value = (self.server.faults.pop(0) if self.server.faults else "").partition(":")
        body = self.server.files.get(self.path)
        if kind == "redirect":
            return self._head(302, {"Location": value, "Content-Length": "0"})
        if kind == "status" or body is None:
            return self._head(int(value or 404), {"Content-Length": "0"})
        if kind == "html":
            body = b"<!DOCTYPE html><p>please log in"
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and kind != "no-ranges" else 0
        if start > len(body):
            return self._head(416, {"Content-Length": "0"})
        total = len(body) + (1 if kind == "changed" else 0)
        rest = body[start:]
        length = len(rest) + {"long": int(value or 0), "short": -int(value or 0)}.get(kind, 0)
        headers = {"ETag": '"2"' if kind == "changed" else '"1"', "Content-Length": str(length)}
        if kind == "no-length":
            del headers["Content-Length"]
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._head(206 if start else 200, headers)
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        with suppress(OSError):
            self.wfile.write(rest[: int(value)] if kind == "cut" else rest)
        return None

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[FileServer]:
    """A running server of these files, by path."""
    server = FileServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
