import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sacrebleu

from actors.rewards import admission, app
from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.server import RewardServer
from actors.rewards.server import serve as serve_in_foreground
from configs.sampling import RewardsSection
from protocol.errors import UserError

Serve = Callable[..., RewardServer]


class GatedScorer:
    """Scores by length, but only once the gate is open; remembers its batches."""

    signature = "gated"

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        self.batches.append(len(items))
        self.entered.set()
        assert self.gate.wait(60)
        return [RewardScore(item.id, float("nan") if item.answer == "nan" else float(len(item.answer))) for item in items]


def body(item_id: str, answer: str = "seven", **fields: Any) -> dict[str, Any]:
    return {"id": item_id, "instruction": "say seven", "answer": answer, "reference": "seven", "language": "en", **fields}


def post(server: RewardServer, items: Any, path: str = "/v1/rewards") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"items": items}, timeout=20)


def test_bleu_over_http(serve: Serve):
    server = serve()
    answer = post(server, [body("a"), body("b", "eleven"), body("c", reference=None)])
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [item["id"] for item in items] == ["a", "b", "c"]
    assert items[0]["score"] == sacrebleu.sentence_bleu("seven", ["seven"], use_effective_order=True).score / 100
    assert items[1]["score"] == 0.0
    assert items[2]["score"] is None
    assert items[2]["error"].startswith("no_reference")
    assert answer.json()["scorer"] == "bleu"
    assert "eff:yes" in answer.json()["signature"]


def test_it_says_where_it_is(serve: Serve):
    server = serve()
    described = server.describe()
    assert described["role"] == "reward"
    assert described["id"] == "reward-0"
    assert described["pid"] == os.getpid()
    health = httpx.get(f"{described['endpoints']['rewards']}/health").json()
    assert health["status"] == "ok"
    assert health["scorer"] == "bleu"
    post(server, [body("a"), body("b", reference=None)])
    page = httpx.get(described["metrics_url"])
    assert page.headers["Content-Type"].startswith("text/plain")
    samples = dict(line.rsplit(" ", 1) for line in page.text.splitlines() if line.startswith("rba_reward"))
    assert samples["rba_reward_items_total"] == "1.0"
    assert samples['rba_reward_errors_total{kind="no_reference"}'] == "1.0"
    assert samples["rba_reward_batch_items_sum"] == "2.0"
    assert float(samples["rba_reward_last_success_timestamp_seconds"]) > 0
    assert samples["rba_reward_queue_items"] == "0.0"
    status = server.status()
    assert (status["items"], status["errors"], status["batches"], status["queued_items"]) == (2, 1, 1, 0)


def test_a_bad_item_harms_no_other(serve: Serve):
    scorer = GatedScorer()
    scorer.gate.set()
    server = serve(scorer=scorer)
    bad = [body("number", 7), {"id": "empty"}, body("long", "x" * (app.MAX_TEXT_CHARS + 1)), body("nan", "nan")]
    bad += [{**body("tongue"), "language": "x" * (app.MAX_TEXT_CHARS + 1)}, {**body("many"), "answers": [""] * (app.MAX_ANSWERS + 1)}]
    answer = post(server, [body("good"), *bad, body("better")])
    assert "NaN" not in answer.text
    outcomes = {item["id"]: item for item in answer.json()["items"]}
    assert outcomes["good"]["score"] == 5.0
    assert outcomes["better"]["score"] == 5.0
    assert outcomes["number"]["error"].startswith("bad_item: answer")
    assert outcomes["empty"]["error"].startswith("bad_item: instruction")
    assert outcomes["long"]["error"].startswith("too_long")
    assert outcomes["tongue"]["error"].startswith("too_long")
    assert outcomes["many"]["error"].startswith("too_long: at most")
    assert outcomes["nan"]["error"].startswith("non_finite")
    assert scorer.batches == [3]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"{", 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b"[]", 422, "bad_shape"),
        (b'{"items": []}', 422, "bad_shape"),
        (b'{"items": [{"answer": "no id"}]}', 422, "bad_shape"),
        (b'{"items": [3]}', 422, "bad_shape"),
        (b" " * (admission.MAX_BODY_BYTES + 1), 413, "too_large"),
        (json.dumps({"items": [{"id": "x"}] * 5000}).encode(), 413, "too_many_items"),
        (json.dumps({"items": [{"id": "x"}] * 500}).encode(), 200, None),
        (json.dumps({"items": [body("x")] * 5000}).encode(), 413, "too_many_items"),
    ],
)
def test_requests_that_are_no_requests_get_a_reason(serve: Serve, content: bytes, status: int, reason: str | None):
    server = serve()
    answer = httpx.post(f"{server.url}/v1/rewards", content=content, timeout=20)
    assert answer.status_code == status
    if reason:
        assert answer.json()["error"]["reason"] == reason
    assert post(server, [body("after")]).status_code == 200


def test_routes_that_are_not_there(serve: Serve):
    server = serve()
    assert httpx.get(f"{server.url}/nothing").json()["error"]["reason"] == "route"
    assert httpx.get(f"{server.url}/v1/rewards").status_code == 405


def test_one_that_listens_everywhere_leaves_it_to_the_supervisor_how_it_is_reached():
    server = RewardServer(RewardsSection(scorer="bleu"), "0.0.0.0", 0)  # noqa: S104
    with stopped(server):
        port = server.url.rpartition(":")[2]
        assert server.url == f"http://{socket.gethostname()}:{port}"
        described = server.describe()
        assert (described["endpoints"], described["metrics_url"]) == (
            {"rewards": f"http://0.0.0.0:{port}"},
            f"http://0.0.0.0:{port}/metrics",
        )


def test_requests_that_come_together_share_a_forward_pass(serve: Serve):
    scorer = GatedScorer()
    server = serve(scorer=scorer)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, server, [body("first")])
        assert scorer.entered.wait(60)
        others = [pool.submit(post, server, [body(f"{request}-{index}", "x" * request) for index in range(3)]) for request in range(1, 9)]
        wait_until(lambda: server.status()["queued_items"] == 24)
        scorer.gate.set()
        assert first.result().json()["items"][0]["score"] == 5.0
        for request, answer in enumerate(others, start=1):
            assert [item["id"] for item in answer.result().json()["items"]] == [f"{request}-{index}" for index in range(3)]
            assert {item["score"] for item in answer.result().json()["items"]} == {float(request)}
    assert scorer.batches == [1, 24]


def test_a_full_queue_says_when_to_come_back(serve: Serve):
    scorer = GatedScorer()
    server = serve(RewardsSection(scorer="bleu", batch_items=1), scorer=scorer)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, server, [body("first")])
        assert scorer.entered.wait(60)
        second = pool.submit(post, server, [body(str(index)) for index in range(64)])
        wait_until(lambda: server.status()["queued_items"] == 64)
        refused = post(server, [body("one more")])
        assert refused.status_code == 429
        assert refused.json()["error"]["reason"] == "queue_full"
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx.get(f"{server.url}/health").json()["queued_items"] == 64
        assert "rba_reward_queue_items 64.0" in httpx.get(f"{server.url}/metrics").text
        scorer.gate.set()
        assert first.result().status_code == 200
        assert len(second.result().json()["items"]) == 64


def test_openrlhfs_shape(serve: Serve):
    server = serve()
    request = {
        "query": ["say seven seven" + " " * 100_000 + "<|im_end|> <|endoftext|>\n", "say seven eleven"],
        "prompts": ["say seven", "say seven"],
        "labels": ["seven", "seven"],
    }
    answer = httpx.post(f"{server.url}/get_reward", json=request).json()
    assert answer == {"rewards": [pytest.approx(1.0), 0.0], "scores": [pytest.approx(1.0), 0.0], "extra_logs": {}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompts": ["else"]}, "bad_shape"),
        ({"prompts": []}, "bad_shape"),
        ({"labels": []}, "bad_shape"),
        ({"query": "text"}, "bad_shape"),
        ({"labels": [None]}, "unscored"),
        ({"labels": None}, "unscored"),
    ],
)
def test_openrlhfs_shape_never_makes_up_a_number(serve: Serve, change: dict[str, Any], reason: str):
    server = serve()
    request = {"query": ["say seven seven"], "prompts": ["say seven"], "labels": ["seven"], **change}
    answer = httpx.post(f"{server.url}/get_reward", json=request)
    assert answer.status_code == 422
    assert answer.json()["error"]["reason"] == reason


TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(("shown", "reason"), [({}, "no_token"), ({"Authorization": f"Bearer {TOKEN}x"}, "wrong_token")])
@pytest.mark.parametrize("path", ["/v1/rewards", "/get_reward"])
def test_without_the_token_nothing_is_scored_or_read(serve: Serve, path: str, shown: dict[str, str], reason: str):
    scorer = GatedScorer()
    server = serve(scorer=scorer, token=TOKEN)
    answer = httpx.post(f"{server.url}{path}", content=b"{", headers=shown, timeout=20)
    assert answer.status_code == 401
    assert answer.json()["error"]["reason"] == reason
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in answer.text
    page = httpx.get(f"{server.url}/metrics").text
    assert f'rba_authentication_failures_total{{reason="{reason}",socket="rewards"}} 1.0' in page
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    scorer.gate.set()
    answer = httpx.post(f"{server.url}/v1/rewards", json={"items": [body("a")]}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json()["items"][0]["score"] == 5.0


def test_a_body_that_is_too_slow_is_not_waited_for(serve: Serve):
    server = serve(RewardsSection(scorer="bleu", timeout_s=0.2))
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"reason":"too_slow"' in answer


def test_a_body_that_says_nothing_of_its_size_is_bounded_too(serve: Serve):
    server = serve()
    chunk = b" " * (1 << 20)
    answer = httpx.post(f"{server.url}/v1/rewards", content=(chunk for _ in range(17)), timeout=20)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "too_large")


def test_a_body_that_is_announced_as_too_large_is_not_read(serve: Serve):
    host, port = serve().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as opened:
        opened.sendall(f"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nContent-Length: {admission.MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert opened.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_bodies_that_arrive_at_once_share_one_bound(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission, "MAX_ROOM_BYTES", 5000)
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n"
    with (
        socket.create_connection((host, int(port)), timeout=60) as first,
        socket.create_connection((host, int(port)), timeout=60) as second,
    ):
        first.sendall(head + b" " * 3000)
        second.sendall(head + b" " * 3000)
        refused = second.recv(4096) if select.select([first, second], [], [], 60)[0] == [second] else first.recv(4096)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in refused.lower()
    wait_until(lambda: post(server, [body("a")]).status_code == 200)


def test_requests_that_wait_for_their_scores_take_room(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission, "MAX_ROOM_BYTES", 5000)
    scorer = GatedScorer()
    server = serve(scorer=scorer)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, server, [{**body("a"), "beside": "x" * 4000}])
        assert scorer.entered.wait(60)
        refused = post(server, [{**body("b"), "language": "x" * 2000}])
        assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "queue_full")
        scorer.gate.set()
        assert waiting.result().status_code == 200
    wait_until(lambda: post(server, [{**body("b"), "language": "x" * 2000}]).status_code == 200)


def test_of_a_body_that_waits_only_its_items_are_kept(serve: Serve):
    scorer = GatedScorer()
    server = serve(scorer=scorer)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        tracemalloc.start()
        try:
            content = json.dumps({"items": [{**body("a"), "beside": "x" * (8 << 20)}]}).encode()
            opened.sendall(b"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
            del content
            assert scorer.entered.wait(60)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 4 << 20
        finally:
            tracemalloc.stop()
        scorer.gate.set()
        assert opened.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_error_that_no_utf8_can_carry_costs_no_other_item(serve: Serve):
    class Unreadable:
        signature = "unreadable"

        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            if any(item.id == "b" for item in items):
                raise OSError("no such file: \udcff")
            return [RewardScore(item.id, 1.0, {"part\udcff": 1.0}) for item in items]

    answer = post(serve(scorer=Unreadable()), [body("a"), body("b")])
    assert answer.status_code == 200
    first, second = answer.json()["items"]
    assert (first["score"], first["parts"]) == (1.0, {"part?": 1.0})
    assert second["error"] == "scorer: OSError: no such file: ?"


def test_what_goes_wrong_within_the_server_has_a_reason_too(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    server = serve()

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "sift", broken)
    answer = post(server, [body("a")])
    assert (answer.status_code, answer.json()["error"]["reason"]) == (500, "internal")


def test_what_was_not_scored_in_time_is_counted(serve: Serve):
    scorer = GatedScorer()
    server = serve(RewardsSection(scorer="bleu", timeout_s=0.3, batch_items=1), scorer=scorer)
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(post, server, [body("busy")])
        assert scorer.entered.wait(60)
        late = pool.submit(post, server, [body("late")])
        wait_until(lambda: server.status()["queued_items"] == 1)
        wait_until(lambda: server._batcher._queue[0].ticket.deadline_s < time.monotonic())
        scorer.gate.set()
        assert busy.result().status_code == 200
        assert late.result().json()["items"][0]["error"].startswith("expired")
    assert 'rba_reward_errors_total{kind="expired"} 1.0' in httpx.get(f"{server.url}/metrics").text
    assert server.status()["errors"] == 1


def test_a_request_with_less_patience_is_refused_earlier(serve: Serve):
    scorer = GatedScorer()
    server = serve(RewardsSection(scorer="bleu", batch_items=1), scorer=scorer)
    with ThreadPoolExecutor(2) as pool:
        scorer.gate.set()
        pool.submit(post, server, [body("first")]).result()
        server._batcher._pace.note(100.0, 100)
        scorer.gate.clear()
        scorer.entered.clear()
        busy = pool.submit(post, server, [body("busy")])
        assert scorer.entered.wait(60)
        waiting = pool.submit(post, server, [body("waits")])
        wait_until(lambda: server.status()["queued_items"] == 1)
        hasty = httpx.post(f"{server.url}/v1/rewards", json={"items": [body("hasty")]}, headers={"Prefer": "respond-async, wait=1"})
        assert (hasty.status_code, hasty.json()["error"]["reason"]) == (429, "queue_full")
        assert int(hasty.headers["Retry-After"]) >= 1
        scorer.gate.set()
        assert busy.result().status_code == waiting.result().status_code == 200


def test_a_broken_scorer_fails_the_role():
    class Broken:
        signature = "broken"

        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            raise OSError(f"device lost at {len(items)} item")

    server = RewardServer(RewardsSection(scorer="bleu"), "127.0.0.1", 0, scorer=Broken())
    with ThreadPoolExecutor(1) as pool, stopped(server):
        running = pool.submit(server.run)
        for _ in range(3):
            assert post(server, [body("a")]).json()["items"][0]["error"] == "scorer: OSError: device lost at 1 item"
        with pytest.raises(RuntimeError, match="3 batches in a row"):
            running.result(20)


def test_stop_ends_run_with_closing_figures():
    server = RewardServer(RewardsSection(scorer="bleu"), "127.0.0.1", 0, index=3)
    with ThreadPoolExecutor(1) as pool, stopped(server):
        running = pool.submit(server.run)
        post(server, [body("a")])
        server.stop("enough")
        figures = running.result(20)
    assert figures["items"] == 1
    assert server.describe()["id"] == "reward-3"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_taken_port_is_the_users_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            RewardServer(RewardsSection(scorer="bleu"), "127.0.0.1", taken.getsockname()[1])


def test_off_loopback_it_wants_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RBA_REWARDS_TOKEN", raising=False)
    with pytest.raises(UserError, match=r"loopback.*--token-file"):
        serve_in_foreground(RewardsSection(scorer="bleu"), "192.0.2.1")
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(UserError, match="others may read"):
        serve_in_foreground(RewardsSection(scorer="bleu", token_file=str(tmp_path / "token")), "192.0.2.1")
    monkeypatch.setenv("RBA_REWARDS_TOKEN", TOKEN)
    for insecure in (False, True):
        with pytest.raises(UserError, match="cannot listen"):
            serve_in_foreground(RewardsSection(scorer="bleu"), "192.0.2.1", insecure=insecure)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_until_a_signal(number: signal.Signals):
    code = "import actors.rewards.server as s, configs.schema as c; s.serve(c.RewardsSection(scorer='bleu'))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert httpx.get(f"{url}/health", timeout=20).json()["scorer"] == "bleu"
        process.send_signal(number)
        assert process.wait(60) == 0


def test_a_bleu_server_imports_no_torch():
    code = "import sys, actors.rewards.server as s, configs.schema as c; s.RewardServer(c.RewardsSection(scorer='bleu'), '127.0.0.1', 0); "
    code += "print([name for name in ('torch', 'transformers', 'vllm', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@contextmanager
def stopped(server: RewardServer) -> Iterator[None]:
    """Stops the server even when the test fails, so that nothing waits for it."""
    try:
        yield
    finally:
        server.stop("test ends")


def wait_until(holds: Callable[[], bool]) -> None:
    """Polls with a short pause; 20 s at most."""
    pause = threading.Event()
    for _ in range(2000):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("never held")
