"""A server with OpenAI's interface, for what no real one does when it is asked to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def said(path: str, text: str | None, reason: str | None = "stop") -> Answer:
    """An answer as vLLM gives it."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    choice |= {"text": text} if path.endswith("/v1/completions") else {"message": {"role": "assistant", "content": text}}
    return 200, {}, json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


def plain(path: str, body: dict[str, Any]) -> Answer:
    """Repeats the seed; by a schema, an empty object."""
    return said(path, "{}" if "response_format" in body else f"seed {body.get('seed')}")


class Server:
    """Answers by a function of path and body, and counts."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer] = plain, port: int = 0) -> None:
        self.answer = answer
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.busiest = self._busy = 0
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                owner._connections.append(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, headers, text = owner._answered(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def _answered(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        with self._lock:
            self.bodies.append((path, body))
            self.headers.append(headers)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            return self.answer(path, body)
        finally:
            with self._lock:
                self._busy -= 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:  # their threads would go on to answer
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
