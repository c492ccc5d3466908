"""An OpenAI-compatible server within the test: it answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from configs.scorers import JudgeSection

ANSWERS = re.compile(r"<answer_a>\n(.*?)\n</answer_a>.*<answer_b>\n(.*?)\n</answer_b>", re.DOTALL)
Reply = tuple[int, dict[str, str], bytes]


def grades(question: str) -> str:
    """A judge that likes long answers, and whatever stands first."""
    found = ANSWERS.search(question)
    if not found:
        return "yes"
    a, b = (min(8, len(text)) for text in found.groups())
    return f"A is longer or shorter.\nGRADES A={a + 2} B={b}"


def completion(text: str) -> Reply:
    """The answer of the interface."""
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}).encode()


@dataclass
class Judge:
    """What the server does and did."""

    url: str = ""
    reply: Callable[[str], Reply] = lambda question: completion(grades(question))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """Answers wait for it."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Of the fields above."""

    @property
    def questions(self) -> list[str]:
        """The messages that it was asked, of judging alone."""
        asked = [str(body["messages"][-1]["content"]) for body in self.bodies]
        return [question for question in asked if "GRADES" in question]

    def section(self, **fields: object) -> JudgeSection:
        """The settings of a scorer that asks this server."""
        return JudgeSection.model_validate({"url": self.url, "model": "judge-1", "timeout_s": 10, "attempts": 3, **fields})


@contextmanager
def judging() -> Iterator[Judge]:
    """A server on a free port."""
    judge = Judge()
    judge.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.changed:
                judge.bodies.append(body)
                judge.headers.append(dict(self.headers))
                judge.running += 1
                judge.most_running = max(judge.most_running, judge.running)
                judge.changed.notify_all()
            judge.gate.wait(20)
            status, headers, answer = (
                judge.reply(body["messages"][-1]["content"]) if self.path == "/v1/chat/completions" else (404, {}, b"")
            )
            with judge.changed:
                judge.running -= 1
            with suppress(ConnectionError):  # who asked has given up
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
