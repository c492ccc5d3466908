import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.client import AVOID_S, RewardClient, Rotation
from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.server import RewardServer
from configs.sampling import RewardsSection
from protocol.errors import UserError

ITEMS = [RewardItem("a", "say seven", "seven", "seven"), RewardItem("b", "say seven", "six", "seven")]


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
    """A server that answers by its script, and well once the script is done."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.requests: list[tuple[float, dict[str, Any]]] = []
        self.peers: set[Any] = set()
        self.release = threading.Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script.requests.append((time.monotonic(), request))
                script.peers.add(self.client_address)
                step = script.steps.pop(0) if script.steps else 200
                status, headers, answer = 200, {}, good
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
                self.send_error(500)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that give up are part of the script
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def scripts() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(*steps: Any) -> Script:
        script = Script()
        script.steps = list(steps)
        made.append(script)
        return script

    yield make
    for script in made:
        script.release.set()
        script.server.shutdown()
        script.server.server_close()


class Recorder:
    def __init__(self) -> None:
        self.counted: list[tuple[str, float, str]] = []
        self.observed: list[str] = []

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        self.counted.append((name, value, labels["kind"]))

    def observe(self, name: str, value: float, **labels: str) -> None:
        assert value > 0
        assert not labels
        self.observed.append(name)

    def succeeded(self, name: str) -> None:
        self.observed.append(name)


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., RewardClient]]:
    made: list[RewardClient] = []

    def make(*urls: str, metrics: Any = None, **fields: Any) -> RewardClient:
        section = RewardsSection.model_validate({"scorer": "bleu", "attempts": 4, "timeout_s": 5.0, **fields})
        made.append(RewardClient(list(urls), section, metrics, first_wait_s=0.01))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


Scripts = Callable[..., Script]
Client = Callable[..., RewardClient]


async def test_scores_in_order(scripts: Scripts, client: Client):
    recorder = Recorder()
    scores = await client(scripts().url, metrics=recorder).score(ITEMS)
    assert scores == [RewardScore("a", 0.5), RewardScore("b", 0.5)]
    assert recorder.observed == ["rba_reward_request_seconds", "rba_reward_last_success_timestamp_seconds"]
    assert recorder.counted == []


async def test_errors_that_pass_are_survived(scripts: Scripts, client: Client):
    script, recorder = scripts(500, 503, "cut"), Recorder()
    scores = await client(script.url, metrics=recorder).score(ITEMS)
    assert [score.score for score in scores] == [0.5, 0.5]
    assert len(script.requests) == 4
    assert [kind for _, _, kind in recorder.counted] == ["try_server", "try_server", "try_connect"]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (500, "server"),
        ("cut", "connect"),
        (lambda _: b"<html>gateway</html>", "bad_answer"),
        (lambda _: b'{"items": [], "scorer": "bleu", "signature": "s"}', "bad_answer"),
        (changed(id="z"), "bad_answer"),
        (changed(score="high"), "bad_answer"),
    ],
)
async def test_errors_that_stay_leave_every_item_unscored(scripts: Scripts, client: Client, step: Any, reason: str):
    script = scripts(*[step] * 9)
    scores = await client(script.url, attempts=3).score(ITEMS)
    assert [(score.id, score.score) for score in scores] == [("a", None), ("b", None)]
    assert all((score.error or "").startswith(f"{reason}: {script.url}") for score in scores)
    assert len(script.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_refusal_is_final(scripts: Scripts, client: Client, status: int):
    script = scripts(status)
    scores = await client(script.url).score(ITEMS)
    assert all((score.error or "").startswith("refused: ") and "scripted" in (score.error or "") for score in scores)
    assert len(script.requests) == 1


async def test_a_stall_ends_at_the_deadline(scripts: Scripts, client: Client):
    script, recorder = scripts("stall", "stall"), Recorder()
    started_s = time.monotonic()
    scores = await client(script.url, timeout_s=0.2, attempts=2, metrics=recorder).score(ITEMS)
    assert time.monotonic() - started_s < 20
    assert all((score.error or "").startswith("timeout: ") for score in scores)
    assert recorder.counted[-1] == ("rba_reward_errors_total", 2, "timeout")
    assert [kind for _, _, kind in recorder.counted] == ["try_timeout", "try_timeout", "timeout"]


async def test_a_server_that_stalls_once_is_asked_again(scripts: Scripts, client: Client):
    scores = await client(scripts("stall").url, timeout_s=0.2).score(ITEMS)
    assert [score.score for score in scores] == [0.5, 0.5]


async def test_nan_is_that_items_error(scripts: Scripts, client: Client):
    script, recorder = scripts(changed(score=float("nan")), changed(parts={"x": float("inf")})), Recorder()
    asking = client(script.url, metrics=recorder)
    for _ in range(2):
        first, second = await asking.score(ITEMS)
        assert first.score is None
        assert (first.error or "").startswith("non_finite")
        assert second.score == 0.5
    assert len(script.requests) == 2
    assert recorder.counted == [("rba_reward_errors_total", 1, "non_finite")] * 2


async def test_retry_after_is_honoured(scripts: Scripts, client: Client):
    script = scripts((429, {"Retry-After": "1"}))
    scores = await client(script.url).score(ITEMS)
    assert [score.score for score in scores] == [0.5, 0.5]
    (first_s, _), (second_s, _) = script.requests
    assert 1.0 <= second_s - first_s < 20


async def test_a_busy_server_leaves_the_work_to_the_other(scripts: Scripts, client: Client):
    busy, free = scripts((429, {"Retry-After": "30"})), scripts()
    started_s = time.monotonic()
    scores = await client(busy.url, free.url).score(ITEMS)
    assert [score.score for score in scores] == [0.5, 0.5]
    assert time.monotonic() - started_s < 20
    assert (len(busy.requests), len(free.requests)) == (1, 1)


async def test_a_server_that_is_gone_is_skipped(scripts: Scripts, client: Client):
    free = scripts()
    asking = client(refusing_url(), free.url)
    for _ in range(4):
        assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]
    assert len(free.requests) == 4


async def test_other_servers_are_asked_from_then_on(scripts: Scripts, client: Client):
    one, two, three = scripts(500), scripts(), scripts()
    asking = client(one.url, two.url)
    await asking.score(ITEMS)
    asking.use([one.url, three.url])
    for _ in range(3):
        assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]
    assert [len(script.requests) for script in (one, two, three)] == [1, 1, 3], "that one failed is not forgotten"
    with pytest.raises(UserError):
        asking.use([])


async def test_a_failure_moves_on_without_a_pause(scripts: Scripts):
    broken, free = scripts(500), scripts()
    asking = RewardClient([broken.url, free.url], RewardsSection(scorer="bleu"), first_wait_s=60)
    started_s = time.monotonic()
    assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]
    assert time.monotonic() - started_s < 20
    await asking.aclose()


async def test_an_endless_answer_is_cut(scripts: Scripts, client: Client):
    scores = await client(scripts(lambda _: b" " * (17 << 20)).url, attempts=1).score(ITEMS)
    assert "longer than" in (scores[0].error or "")


async def test_nobody_there(client: Client):
    scores = await client(refusing_url(), attempts=2).score(ITEMS)
    assert all((score.error or "").startswith("connect: ") for score in scores)


async def test_chunks_go_round_over_kept_connections(scripts: Scripts, client: Client):
    one, two = scripts(), scripts()
    asking = client(one.url, two.url, batch_items=2)
    for _ in range(3):
        scores = await asking.score([RewardItem(str(index), "q", "x", "y") for index in range(7)])
        assert [score.id for score in scores] == [str(index) for index in range(7)]
    assert [len(request["items"]) for _, request in one.requests + two.requests].count(2) == 9
    assert (len(one.requests), len(two.requests)) == (6, 6)
    assert len(one.peers | two.peers) <= 4


async def test_no_items_need_no_server(client: Client):
    assert await client(refusing_url()).score([]) == []


async def test_a_lone_surrogate_is_sent_as_a_question_mark(scripts: Scripts, client: Client):
    script = scripts()
    await client(script.url).score([RewardItem("a", "q", "x\ud800y")])
    assert script.requests[0][1]["items"][0]["answer"] == "x?y"


async def test_check_accepts_a_server_that_answers(serve: Any, client: Client):
    server: RewardServer = serve()
    assert "eff:yes" in (await client(server.url).check())[0]


async def test_check_names_what_is_wrong(serve: Any, scripts: Scripts, client: Client):
    gone = refusing_url()
    with pytest.raises(UserError, match=gone) as caught:
        await client(gone).check()
    assert "rewards.urls" in str(caught.value)
    with pytest.raises(UserError, match="does not answer"):
        await client(scripts().url).check()
    server: RewardServer = serve()
    with pytest.raises(UserError, match="scores by bleu"):
        await client(server.url, scorer="armorm").check()
    for urls in ([], ["ftp://x"], ["127.0.0.1:80"], ["http://"], ["http://[::"]):
        with pytest.raises(UserError):
            RewardClient(urls, RewardsSection(scorer="bleu"))


async def test_a_real_server(serve: Any, client: Client):
    server: RewardServer = serve()
    items = [RewardItem(str(index), "say", "seven", "seven" if index % 2 else None) for index in range(200)]
    scores = await client(server.url).score(items)
    assert [score.id for score in scores] == [item.id for item in items]
    assert [score.score is None for score in scores] == [item.reference is None for item in items]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 3)), max_size=40))
def test_rotation_prefers_servers_in_good_standing(events: list[tuple[int, bool, float]]):
    rotation, now_s = Rotation(["a", "b", "c"]), 0.0
    for index, fails, passed_s in events:
        now_s += passed_s
        if fails:
            rotation.servers[index].failed_s = now_s
        else:
            rotation.servers[index].busy_until_s = now_s + passed_s
        fit = [one for one in rotation.servers if now_s - one.failed_s >= AVOID_S and now_s >= one.busy_until_s]
        busy = [one for one in rotation.servers if now_s < one.busy_until_s]
        assert rotation.pick(now_s) in (fit or rotation.servers)
        pause_s = rotation.pause_s(now_s)
        if fit:
            assert pause_s == 0
        elif len(busy) == 3:
            assert pause_s == min(one.busy_until_s for one in busy) - now_s
        else:
            assert pause_s is None


def test_rotation_takes_turns():
    rotation = Rotation(["a", "b", "c"])
    assert [rotation.pick(0.0).url for _ in range(4)] == ["a", "b", "c", "a"]


def refusing_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
