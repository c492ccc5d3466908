"""A reward server that answers by a script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def good(request: dict[str, Any]) -> bytes:
    scores = [{"id": item["id"], "score": 0.5, "parts": {}, "error": None} for item in request["items"]]
    return json.dumps({"items": scores, "scorer": "bleu", "signature": "s"}).encode()


def changed(**fields: Any) -> Callable[[dict[str, Any]], bytes]:
    """A good answer, but for the first item."""

    def answer(request: dict[str, Any]) -> bytes:
        body = json.loads(good(request))
        body["items"][0] |= fields
        return json.dumps(body).encode()

    return answer


class Script:
    """A server that answers by its script, and well once the script is done.

    A step is a status, a status with headers, what makes the answer of the request, "cut" or "stall".
    """

    def __init__(self, well: Callable[[dict[str, Any]], bytes] = good, health: bytes | None = None) -> None:
        self.steps: list[Any] = []
        self.requests: list[tuple[float, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.peers: set[Any] = set()
        self.release = threading.Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script.requests.append((time.monotonic(), request))
                script.headers.append(dict(self.headers))
                script.paths.append(self.path)
                script.peers.add(self.client_address)
                step = script.steps.pop(0) if script.steps else 200
                status, headers, answer = 200, {}, well
                match step:
                    case "stall":
                        script.release.wait(30)
                        self.close_connection = True
                        return
                    case "cut":
                        self.close_connection = True
                        return
                    case (int() as status, dict() as headers):
                        pass
                    case int() as status:
                        pass
                    case _:
                        answer = step
                content = answer(request) if status == 200 else b'{"error": {"reason": "scripted"}}'
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                if health is None:
                    self.send_error(500)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(health)))
                self.end_headers()
                self.wfile.write(health)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that give up are part of the script
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Lets stalled requests go, and the port."""
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
