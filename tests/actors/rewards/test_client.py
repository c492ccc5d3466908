import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from actors.rewards.client import RewardClient
from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.server import RewardServer
from configs.sampling import RewardsSection
from protocol.errors import UserError
from protocol.metrics import Metrics
from tests.actors.rewards.scripted import Script, changed

ITEMS = [RewardItem("a", "say seven", "seven", "seven"), RewardItem("b", "say seven", "six", "seven")]


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
        script.close()


class Recorder:
    def __init__(self) -> None:
        self.counted: list[tuple[str, float, str]] = []
        self.observed: list[str] = []
        self.servers: dict[str, float] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        self.counted.append((name, value, labels["kind"]))

    def set(self, name: str, value: float, *, state: str) -> None:
        assert name == "rba_reward_servers"
        self.servers[state] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        assert value > 0
        assert not labels
        self.observed.append(name)

    def succeeded(self, name: str) -> None:
        self.observed.append(name)


@pytest.fixture
async def client() -> AsyncIterator[Callable[..., RewardClient]]:
    made: list[RewardClient] = []

    def make(*urls: str, metrics: Any = None, token: str | None = None, **fields: Any) -> RewardClient:
        section = RewardsSection.model_validate({"scorer": "bleu", "attempts": 4, "timeout_s": 5.0, **fields})
        made.append(RewardClient(list(urls), section, metrics, token=token, first_wait_s=0.01))
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
    assert sorted(recorder.observed) == ["rba_reward_last_success_timestamp_seconds", "rba_reward_request_seconds"]
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
    scores = await client(script.url, timeout_s=0.2, deadline_s=30, attempts=2, metrics=recorder).score(ITEMS)
    assert time.monotonic() - started_s < 20
    assert all((score.error or "").startswith("timeout: ") for score in scores)
    assert recorder.servers == {"closed": 0, "open": 1, "half_open": 0}
    assert recorder.counted[-1] == ("rba_reward_errors_total", 2, "timeout")
    assert [kind for _, _, kind in recorder.counted] == ["try_timeout", "try_timeout", "timeout"]


async def test_the_time_of_a_request_begins_with_its_turn(scripts: Scripts, client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.rewards.client.MAX_CONNECTIONS", 1)
    script, begun, go_on = scripts(), [], asyncio.Event()
    asking = client(script.url)
    ask = asking._ask

    async def held(*request: Any) -> list[RewardScore]:
        begun.append(request)
        await go_on.wait()
        return await ask(*request)

    monkeypatch.setattr(asking, "_ask", held)
    answers = [asyncio.create_task(asking.score(ITEMS)) for _ in range(3)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(begun) == 1
    go_on.set()
    assert [[score.score for score in answer] for answer in await asyncio.gather(*answers)] == [[0.5, 0.5]] * 3
    assert (len(begun), len(script.peers)) == (3, 1)


async def test_what_is_known_of_the_servers(scripts: Scripts, client: Client):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        urls = [scripts().url, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        asking = client(*urls)
        assert asking.servers() == [{"url": url, "state": "closed", "scored_s": None} for url in urls]
        for _ in range(4):
            await asking.score(ITEMS)
        first, second = asking.servers()
    assert (first["state"], first["scored_s"] < 60) == ("closed", True)
    assert (second["state"] == "closed", second["scored_s"]) == (False, None)


async def test_what_a_request_waited_for_when_its_time_was_over(scripts: Scripts, client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.rewards.client.MAX_CONNECTIONS", 1)
    asking = client(scripts().url, timeout_s=0.2, deadline_s=0.3)

    async def held(*_request: Any) -> list[RewardScore]:
        await asyncio.Event().wait()
        raise AssertionError("nobody unblocks it")

    monkeypatch.setattr(asking, "_ask", held)
    [[asked], [waited]] = await asyncio.gather(asking.score(ITEMS[:1]), asking.score(ITEMS[:1]))
    assert asked.error == f"deadline: no score within 0.3 s; {asking._balancer.servers[0].url} had been asked"
    assert waited.error == "deadline: no score within 0.3 s; it waited for its turn"


async def test_a_server_that_stalls_once_is_asked_again(scripts: Scripts, client: Client):
    scores = await client(scripts("stall").url, timeout_s=0.2, deadline_s=30).score(ITEMS)
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
    one, two, three = scripts("cut"), scripts(), scripts()
    asking = RewardClient([one.url, two.url], RewardsSection(scorer="bleu"), first_wait_s=60)
    await asking.score(ITEMS)
    asking.use([one.url, three.url])
    for _ in range(3):
        assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]
    assert [len(script.requests) for script in (one, two, three)] == [1, 1, 3], "that one failed is not forgotten"
    await asking.aclose()
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


async def test_the_token_is_sent_and_a_wrong_one_is_final(serve: Any, client: Client):
    token = "a-token-of-some-length"
    server: RewardServer = serve(token=token)
    item = RewardItem("a", "say", "seven", "seven")
    assert [score.score for score in await client(server.url, token=token).score([item])] == [pytest.approx(1.0)]
    for shown in (None, "another-token-of-length"):
        recorder = Recorder()
        (score,) = await client(server.url, token=shown, metrics=recorder).score([item])
        assert (score.error or "").startswith(f"unauthorised: {server.url}: status 401")
        assert "rewards.token_file" in (score.error or "")
        assert [kind for _, _, kind in recorder.counted] == ["try_unauthorised", "unauthorised"], "no second try"


async def test_the_server_hears_how_long_the_client_waits(scripts: Scripts, client: Client):
    script = scripts()
    await client(script.url, timeout_s=7.5).score(ITEMS)
    await client(script.url, timeout_s=1.5, deadline_s=2).score(ITEMS)
    assert [headers["Prefer"] for headers in script.headers] == ["wait=6", "wait=1"]


async def test_busy_servers_are_waited_for_until_the_deadline(scripts: Scripts, client: Client):
    script, recorder = scripts((429, {"Retry-After": "30"})), Recorder()
    scores = await client(script.url, timeout_s=0.25, deadline_s=0.3, attempts=9, metrics=recorder).score(ITEMS)
    assert all((score.error or "").startswith("deadline: no score within 0.3 s") for score in scores)
    assert len(script.requests) == 1
    assert [kind for _, _, kind in recorder.counted] == ["try_busy", "deadline"]


async def test_to_be_told_to_come_back_is_no_failed_try(scripts: Scripts, client: Client):
    script = scripts(*[(429, {"Retry-After": "0"})] * 5)
    scores = await client(script.url, attempts=1).score(ITEMS)
    assert [score.score for score in scores] == [0.5, 0.5]
    assert len(script.requests) == 6


async def test_a_server_that_hangs_is_asked_by_one_request_at_a_time(scripts: Scripts, client: Client):
    script, recorder = scripts("stall", "stall", "stall"), Recorder()
    asking = client(script.url, timeout_s=0.2, deadline_s=30, attempts=5, metrics=recorder)
    assert (await asking.score(ITEMS[:1]))[0].score == 0.5
    script.steps = ["cut", "cut"]
    script.requests.clear()
    many = await asyncio.gather(*(asking.score([item]) for item in ITEMS * 4))
    assert all(score.score == 0.5 for (score,) in many)
    assert recorder.servers == {"closed": 1, "open": 0, "half_open": 0}


async def test_requests_go_where_least_is_under_way(scripts: Scripts, client: Client):
    slow, fast = scripts("stall"), scripts()
    asking = client(slow.url, fast.url)
    first = asyncio.create_task(asking.score(ITEMS))
    while not slow.requests:
        await asyncio.sleep(0.01)
    for _ in range(5):
        assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]
    assert (len(slow.requests), len(fast.requests)) == (1, 5)
    slow.release.set()
    assert [score.score for score in await first] == [0.5, 0.5]


async def test_a_request_that_is_given_up_says_nothing_about_its_server(scripts: Scripts, client: Client):
    script, recorder = scripts("stall"), Recorder()
    asking = client(script.url, metrics=recorder)
    given_up = asyncio.create_task(asking.score(ITEMS))
    while not script.requests:
        await asyncio.sleep(0.01)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert recorder.servers["closed"] == 1
    assert [score.score for score in await asking.score(ITEMS)] == [0.5, 0.5]


async def test_the_metrics_are_in_the_catalogue(scripts: Scripts, client: Client):
    metrics = Metrics("rollout", "rollout-0")
    await client(scripts("cut").url, refusing_url(), metrics=metrics).score(ITEMS)
    page = metrics.render().decode()
    assert 'rba_reward_servers{state="closed"} ' in page
    assert 'rba_reward_errors_total{kind="try_connect"} ' in page
    assert "rba_reward_request_seconds_count 1.0" in page


async def test_check_accepts_a_server_that_answers(serve: Any, client: Client):
    server: RewardServer = serve()
    assert "eff:yes" in (await client(server.url).check())[0]


async def test_check_refuses_servers_that_score_by_different_things(serve: Any, client: Client):
    class Model:
        def __init__(self, signature: str) -> None:
            self.signature = signature

        def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
            return [RewardScore(item.id, 1.0) for item in items]

    servers = [serve(scorer=Model(signature)) for signature in ("one model", "one model", "another model")]
    assert await client(*(server.url for server in servers[:2])).check() == ["one model", "one model"]
    with pytest.raises(UserError, match=f"{servers[2].url} scores by another model"):
        await client(*(server.url for server in servers)).check()


async def test_check_takes_a_busy_server_for_one_that_scores(scripts: Scripts, client: Client):
    script = scripts((429, {"Retry-After": "30"}))
    assert await client(script.url, protocol="openrlhf", urls=[script.url]).check() == ["openrlhf"]


async def test_check_names_what_is_wrong(serve: Any, scripts: Scripts, client: Client):
    gone = refusing_url()
    with pytest.raises(UserError, match=gone) as caught:
        await client(gone).check()
    assert "rewards.urls" in str(caught.value)
    with pytest.raises(UserError, match="does not answer"):
        await client(scripts().url).check()
    server: RewardServer = serve(token="a-token-of-some-length")
    with pytest.raises(UserError, match="scores by bleu"):
        await client(server.url, scorer="armorm").check()
    with pytest.raises(UserError, match=r"401.*rewards\.token_file"):
        await client(server.url).check()
    for urls in ([], ["ftp://x"], ["127.0.0.1:80"], ["http://"], ["http://[::"]):
        with pytest.raises(UserError):
            RewardClient(urls, RewardsSection(scorer="bleu"))


async def test_a_real_server(serve: Any, client: Client):
    server: RewardServer = serve()
    items = [RewardItem(str(index), "say", "seven", "seven" if index % 2 else None) for index in range(200)]
    scores = await client(server.url).score(items)
    assert [score.id for score in scores] == [item.id for item in items]
    assert [score.score is None for score in scores] == [item.reference is None for item in items]


async def test_further_acceptable_answers_travel_with_the_item(serve: Any, client: Client):
    asking = client(serve(RewardsSection(scorer="qa")).url, scorer="qa")
    items = [RewardItem("a", "who", "it is ann", "bob", answers=("Ann", "\ud800")), RewardItem("b", "who", "it is ann", "bob")]
    assert [score.score for score in await asking.score(items)] == [1.0, 0.0]


def refusing_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
