"""A reward server that fails in every way it can, and comes back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from learner.journal import JOURNAL
from learner.journal.disk import PosixDisk
from learner.journal.records import Received
from learner.journal.recovery import read_all
from protocol.messages import Outcome
from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.record import monotonic_s

SIGNATURE = "scripted"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mood = "well"
    woken = threading.Event()

    def do_GET(self) -> None:
        self._answer(200, json.dumps({"scorer": "bleu", "signature": SIGNATURE}))

    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        scores = [{"id": item["id"], "score": (len(item["answer"]) + index) / 10} for index, item in enumerate(items)]
        match type(self).mood:
            case "500":
                self._answer(500, "out of memory")
            case "stall":
                self.woken.wait(20)
                self.close_connection = True
            case "away":
                self.close_connection = True
            case "garbage":
                self._answer(200, '{"items": [{"id": "0", "sco')
            case "nan":
                self._answer(
                    200,
                    json.dumps({"scorer": "bleu", "signature": SIGNATURE, "items": [{**score, "score": float("nan")} for score in scores]}),
                )
            case _:
                self._answer(200, json.dumps({"scorer": "bleu", "signature": SIGNATURE, "items": scores}))

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server:
    """On a port that stays the same, here or away."""

    def __init__(self) -> None:
        self.port = 0
        Handler.mood = "well"
        Handler.woken.clear()

    def open(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that end their connections
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        Handler.woken.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def outcomes(drill: Drill) -> list[Received]:
    found = read_all(PosixDisk(drill.folder / "run" / JOURNAL))
    return [each for _, each in found.records() if isinstance(each, Received)]


@pytest.mark.parametrize("mood", ["500", "stall", "garbage", "nan", "away"])
def test_without_scores_there_are_no_pairs_and_with_them_there_are_again(drill: Drill, told: Told, mood: str) -> None:
    drill.config["strategy"] = "group"
    drill.config["rewards"] = {"scorer": "bleu", "timeout_s": 0.3, "attempts": 2}
    with Server() as server:
        drill.rewards = [f"http://127.0.0.1:{server.port}"]
        drill.begin()
        failed_s = monotonic_s()
        if mood == "away":
            server.close()
        Handler.mood = mood
        drill.until(lambda: any(each.result.outcome is Outcome.UNSCORED for each in outcomes(drill)), "groups without a score")
        drill.until(lambda: drill.metrics("rollout-0").get("rba_reward_errors_total"), "the errors are counted")
        assert not drill.logged("actor silent", since_s=failed_s)
        Handler.mood = "well"
        Handler.woken.set()
        if mood == "away":
            server.open()
        mended_s = monotonic_s()
        before = sum(bool(each.result.pairs) for each in outcomes(drill))
        drill.until(lambda: sum(bool(each.result.pairs) for each in outcomes(drill)) > before, "pairs again")
        recovery_s = monotonic_s() - mended_s
        drill.goes_on()
        drill.finish()
    for each in outcomes(drill):
        for pair in each.result.pairs:
            assert all(each.result.completions[side].reward is not None for side in (pair.chosen, pair.rejected))
        assert bool(each.result.pairs) <= (each.result.outcome is Outcome.PAIRS)
    told(19, f"{mood}: groups end unscored, without a pair; pairs come again by themselves", recovery_s)
