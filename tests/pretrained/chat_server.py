"""A local server of OpenAI's chat protocol whose responses, faulty ones too, a test chooses."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-0123456789"


def choice(text: Any, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """Return a well-formed response with this text."""
    return {
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text} | more}]
    }


class ChatServer(ThreadingHTTPServer):
    """Responds with each of ``turns`` (status, headers, body) in order, then with ``usual``.

    ``asked`` are the requests in their order; ``pauses`` are seconds before the next responses, then ``pause``; with
    ``drips``, headers are sent meanwhile.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turns: list[tuple[int, dict[str, str], Any]] = []
        self.usual: Any = choice("red cars")
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.pause = 0.0
        self.pauses: list[float] = []
        self.drips = False
        self.together = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers.get("Authorization", ""))
            self.server.together += 1
            self.server.most = max(self.server.most, self.server.together)
            status, headers, content = self.server.turns.pop(0) if self.server.turns else (200, {}, self.server.usual)
            pause = self.server.pauses.pop(0) if self.server.pauses else self.server.pause
        if self.server.drips:
            self.drip(pause)
        time.sleep(pause)
        with self.server.lock:
            self.server.together -= 1
        sent = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(sent))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def drip(self, seconds: float) -> None:
        """Send headers until the client disconnects."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(OSError):
            for _ in range(int(seconds / 0.02)):
                self.wfile.write(b"X-Wait: a little\r\n")
                time.sleep(0.02)

    def log_message(self, format: str, *words: Any) -> None: ...


@contextmanager
def serving() -> Iterator[ChatServer]:
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
