from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from actors.rollout import actor as acting
from actors.rollout import failing
from actors.rollout.actor import Actor
from actors.rollout.gauges import Gauges
from actors.rollout.generation import EngineFailedError, RefusedVersionError
from actors.rollout.groups import GroupRunner
from protocol.dialogue.actor_events import Ended, Granted, Notice, Registered, VersionKnown
from protocol.errors import RbaError
from protocol.messages import GroupResult, Lease, Outcome, PolicyVersion, Purpose, Welcome
from protocol.metrics import Metrics
from protocol.weights.fetching import FetchError
from protocol.weights.files import directory_of, write_version
from protocol.weights.messages import Fetched
from tests.actors.rollout.scripted import Letters, ScriptedEngine, Tones, config, leased

CAPACITY = 4


class Learner:
    """The other end of the link: says what a test lets it say, and keeps what it hears."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Notice] = asyncio.Queue()
        self.results: list[GroupResult] = []
        self.messages = 0
        self.kept: list[list[int]] = []
        self.reports: list[tuple[PolicyVersion | None, int]] = []
        self.sizes: list[int] = []
        self.heard = asyncio.Event()

    async def next_event(self) -> Notice:
        return await self.said.get()

    def send_results(self, results: list[GroupResult]) -> None:
        assert results
        self.messages += 1
        self.results += results
        self.heard.set()

    def report(self, applied: PolicyVersion | None, generated_tokens: int) -> None:
        self.reports.append((applied, generated_tokens))

    def resize(self, capacity_groups: int) -> None:
        self.sizes.append(capacity_groups)

    def give_back(self, keep: Sequence[int]) -> None:
        self.kept.append(sorted(keep))

    async def drained(self, timeout_s: float) -> bool:
        return True

    def say(self, *notices: Notice) -> None:
        for notice in notices:
            self.said.put_nowait(notice)

    def lease(self, *numbers: int, step: int = 0, purpose: Purpose = Purpose.TRAIN) -> None:
        self.say(Granted(Lease([leased(number, purpose) for number in numbers], PolicyVersion(0, step), 60.0)))


class Bench:
    """An actor with a scripted engine, a learner, and versions on disk."""

    def __init__(self, root: Path, engine: ScriptedEngine | None = None) -> None:
        self.root, self.learner, self.engine = root, Learner(), engine or ScriptedEngine()
        self.fetched: list[PolicyVersion] = []
        self.fetch_errors = 0
        self.metrics = Metrics("rollout", "rollout-0")
        runner = GroupRunner(config("single"), self.engine, Letters(), Tones(), None)  # type: ignore[arg-type]
        self.actor = Actor(self.learner, self.fetch, self.engine, runner, Gauges(self.metrics), CAPACITY)

    def publish(self, step: int) -> PolicyVersion:
        version = PolicyVersion(0, step)
        write_version(self.root, version, [("w", "F32", [1], bytes([step, 0, 0, 0]))], 4096)
        return version

    def newer(self, step: int) -> None:
        """Publish, and say so."""
        self.learner.say(VersionKnown(self.publish(step)))

    async def fetch(self, version: PolicyVersion) -> Fetched:
        self.fetched.append(version)
        await asyncio.sleep(0)
        directory = directory_of(self.root, version)
        if self.fetch_errors or not directory.exists():
            self.fetch_errors = max(0, self.fetch_errors - 1)
            raise FetchError("not served")
        manifest = write_version(self.root, version, [("w", "F32", [1], bytes([version.step, 0, 0, 0]))], 4096)
        return Fetched(version, str(directory), manifest.digest, manifest.size_bytes, 0.0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.engine.start(PolicyVersion(0, 0))
    made.learner.say(Registered(Welcome("run", "boot", PolicyVersion(0, 0), 1.0)))
    return made


@contextlib.asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[asyncio.Task[str]]:
    """The actor at work; ends with a Bye of the learner."""
    task = asyncio.create_task(bench.actor.work())
    try:
        async with asyncio.timeout(30):
            yield task
            bench.learner.say(Ended("the run is over"))
            await task
    finally:
        task.cancel()


async def test_leased_groups_come_back_as_results(bench: Bench) -> None:
    bench.newer(0)
    bench.learner.lease(0, 1)
    bench.learner.lease(2, purpose=Purpose.EVALUATE)
    async with working(bench) as task:
        await bench.until(lambda: len(bench.learner.results) == 3)
    assert task.result() == "the run is over"
    assert {result.ordinal: result.outcome for result in bench.learner.results} == {
        0: Outcome.PAIRS,
        1: Outcome.PAIRS,
        2: Outcome.EVALUATED,
    }
    figures = bench.actor.figures()
    assert (figures["groups"], figures["completions"], figures["held_groups"]) == (3, 3 + 3 + 4, 0)
    assert figures["generated_tokens"] == sum(len(each.token_ids) // 4 for result in bench.learner.results for each in result.completions)
    assert bench.learner.reports[-1] == (PolicyVersion(0, 0), 0) or bench.learner.reports[-1][1] > 0
    assert f"rba_generated_tokens_total {figures['generated_tokens']}" in bench.metrics.render().decode()


async def test_an_actor_is_quiet_while_its_engine_is_stuck_and_not_while_it_waits_for_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "REPORT_S", 0.01)

    def quiet_s() -> float:
        return float(bench.actor.figures()["quiet_s"])

    bench.newer(0)
    async with working(bench):
        await bench.until(lambda: len(bench.learner.reports) > 30)
        assert quiet_s() < 0.2, "it has nothing to do"
        bench.engine.gate = asyncio.Event()
        bench.learner.lease(0)
        await bench.until(lambda: quiet_s() > 0.5)
        bench.engine.gate.set()
        await bench.until(lambda: quiet_s() < 0.2)

        stuck = asyncio.Event()

        async def never(fetched: Fetched) -> float:
            await stuck.wait()
            return 0.0

        monkeypatch.setattr(bench.engine, "apply", never)
        bench.newer(1)
        await bench.until(lambda: quiet_s() > 0.5)
        stuck.set()
        await bench.until(lambda: quiet_s() < 0.2)


async def test_nothing_is_sampled_before_the_leases_version_is_applied(bench: Bench) -> None:
    bench.newer(0)
    bench.learner.lease(0, step=0)
    async with working(bench):
        await bench.until(lambda: len(bench.learner.results) == 1)
        bench.learner.lease(1, step=5)
        await bench.until(lambda: len(bench.fetched) > 1)
        assert bench.actor.figures()["waits_for"] == "weights"
        assert bench.actor.figures()["held_groups"] == 1
        bench.publish(5)  # the lease has told of it already
        await bench.until(lambda: len(bench.learner.results) == 2)
    versions = [{span.version.step for each in result.completions for span in each.spans} for result in bench.learner.results]
    assert versions == [{0}, {5}]


async def test_answers_under_way_span_both_versions(bench: Bench) -> None:
    bench.engine.gate = asyncio.Event()
    bench.newer(0)
    bench.learner.lease(0)
    async with working(bench):
        await bench.until(lambda: bench.engine.running == 3)
        await asyncio.sleep(0.01)
        bench.newer(1)
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 1))
        bench.engine.gate.set()
        await bench.until(lambda: bool(bench.learner.results))
    for each in bench.learner.results[0].completions:
        assert [span.version.step for span in each.spans] == [0, 1]
    assert bench.actor.figures()["pushes"] == 2


async def test_groups_are_sampled_while_a_version_is_on_its_way(bench: Bench) -> None:
    bench.newer(0)
    coming, fetch = asyncio.Event(), bench.actor._fetch

    async def slow(version: PolicyVersion) -> Fetched:
        if version.step:
            await coming.wait()
        return await fetch(version)

    bench.actor._fetch = slow
    async with working(bench):
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 0))
        bench.newer(1)
        bench.learner.lease(0, 1, 2)
        await bench.until(lambda: len(bench.learner.results) == 3)
        assert bench.actor.applied == PolicyVersion(0, 0)
        coming.set()
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 1))


async def test_only_the_newest_version_is_fetched(bench: Bench) -> None:
    for step in range(4):
        bench.newer(step)
    async with working(bench):
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 3))
    assert bench.fetched[-1] == PolicyVersion(0, 3)
    assert len(bench.fetched) <= 2


async def test_a_version_that_does_not_come_is_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "RETRY_S", 0.0)
    bench.fetch_errors = 3
    bench.newer(0)
    async with working(bench):
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 0))
    assert len(bench.fetched) == 4


async def test_an_actor_waits_for_a_learner_that_publishes_nothing_and_ends_when_it_is_left_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "RETRY_S", 0.0)
    monkeypatch.setattr(failing, "GIVE_UP_FETCH_S", 0.0)
    bench.learner.say(VersionKnown(PolicyVersion(0, 0)))
    working = asyncio.create_task(bench.actor.work())
    await bench.until(lambda: len(bench.fetched) > 100)
    assert not working.done()
    bench.learner.say(VersionKnown(PolicyVersion(0, 1)))
    with pytest.raises(ExceptionGroup) as caught:
        await working
    assert caught.group_contains(FetchError)
    assert bench.fetched.count(PolicyVersion(0, 1)) >= 2, "not for what failed while nothing was published"


async def test_an_actor_ends_that_reaches_no_weight_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "RETRY_S", 0.0)
    monkeypatch.setattr(failing, "GIVE_UP_FETCH_S", 0.0)
    answers: list[bool | None] = [False, True, None, False, None]

    async def away(_: PolicyVersion) -> Fetched:
        raise FetchError("no answer", store_answers=answers.pop(0))

    bench.actor._fetch = away
    bench.learner.say(VersionKnown(PolicyVersion(0, 0)))
    with pytest.raises(ExceptionGroup) as caught:
        await bench.actor.work()
    assert caught.group_contains(FetchError)
    assert not answers, "it was away twice in a row, as far as anybody knows"


async def test_a_damaged_version_leaves_the_old_one_serving_until_it_is_too_much(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "RETRY_S", 0.0)
    damaged = 2
    fetch = bench.fetch

    async def damaging(version: PolicyVersion) -> Fetched:
        nonlocal damaged
        fetched = await fetch(version)
        if version.step and damaged:
            damaged -= 1
            (Path(fetched.directory) / "weights.bin").write_bytes(b"bad!")
        return fetched

    bench.actor._fetch = damaging
    bench.newer(0)
    async with working(bench):
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 0))
        bench.newer(1)
        bench.learner.lease(0, step=0)
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 1))
        assert bench.actor.figures()["refused_versions"] == 2
    again = Bench(bench.root, bench.engine)
    again.actor._fetch, damaged = damaging, 3
    again.newer(2)
    with pytest.raises(ExceptionGroup) as caught:
        await again.actor.work()
    assert caught.group_contains(RefusedVersionError)


async def test_a_version_whose_place_newer_ones_have_taken_is_no_damaged_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "RETRY_S", 0.0)
    late = acting.REFUSALS + 1
    fetch = bench.fetch

    async def fetched_too_late(version: PolicyVersion) -> Fetched:
        nonlocal late
        fetched = await fetch(version)
        if late:
            late -= 1
            shutil.rmtree(fetched.directory)
            bench.newer(version.step + 1)
        return fetched

    bench.actor._fetch = fetched_too_late
    bench.newer(0)
    async with working(bench):
        await bench.until(lambda: bench.actor.applied is not None)
        assert bench.actor.figures()["refused_versions"] == 0


async def test_no_more_groups_run_at_once_than_the_actor_has_room_for(bench: Bench) -> None:
    bench.newer(0)
    bench.learner.lease(*range(9))
    async with working(bench):
        await bench.until(lambda: len(bench.learner.results) == 9)
    assert bench.engine.most_running <= 3 * CAPACITY
    assert bench.learner.messages <= 9


async def test_stop_calls_off_what_is_under_way_and_hands_over_what_is_finished(bench: Bench) -> None:
    bench.newer(0)
    bench.learner.lease(0)
    async with working(bench) as task:
        await bench.until(lambda: len(bench.learner.results) == 1)
        bench.engine.gate = asyncio.Event()
        bench.learner.lease(1, 2)
        await bench.until(lambda: bench.engine.running == 6)
        bench.actor.stop("scaled down")
        assert await task == "scaled down"
    assert (bench.engine.running, bench.engine.aborted) == (0, 6)
    assert [result.ordinal for result in bench.learner.results] == [0]


async def test_draining_finishes_what_is_under_way_and_gives_back_the_rest(bench: Bench) -> None:
    bench.newer(0)
    bench.engine.gate = asyncio.Event()
    bench.learner.lease(0, 1)
    async with working(bench) as task:
        await bench.until(lambda: bench.engine.running == 6)
        bench.learner.lease(2, step=7)  # its version never comes
        await bench.until(lambda: bench.actor.figures()["held_groups"] == 3)
        bench.actor.drain("scaled down", within_s=3600.0)
        bench.actor.drain("told twice", within_s=0.0)
        bench.learner.lease(3)
        await bench.until(lambda: bench.learner.said.empty())
        assert bench.actor.figures()["held_groups"] == 2
        assert not task.done()
        bench.engine.gate.set()
        assert await task == "scaled down"
    assert bench.learner.kept == [[0, 1]]
    assert (bench.engine.running, bench.engine.aborted) == (0, 0)
    assert sorted(result.ordinal for result in bench.learner.results) == [0, 1]


async def test_draining_without_work_ends_at_once(bench: Bench) -> None:
    bench.actor.drain("scaled down", within_s=3600.0)
    assert await bench.actor.work() == "scaled down"
    assert bench.learner.kept == [[]]


@pytest.mark.parametrize("within_s", [0.0, 3600.0])
async def test_what_is_not_finished_in_time_is_called_off_and_a_stop_does_so_at_once(bench: Bench, within_s: float) -> None:
    bench.newer(0)
    bench.engine.gate = asyncio.Event()
    bench.learner.lease(0, 1)
    async with working(bench) as task:
        await bench.until(lambda: bench.engine.running == 6)
        bench.actor.drain("scaled down", within_s)
        if within_s:
            bench.actor.stop("at once")
        assert await task == ("at once" if within_s else "scaled down")
    assert (bench.engine.running, bench.engine.aborted) == (0, 6)
    assert bench.learner.results == []


async def test_a_result_that_is_finished_when_the_actor_stops_is_handed_over(bench: Bench) -> None:
    bench.actor._results.put_nowait(GroupResult(7, 0, "g7", Outcome.TIED))
    bench.actor.stop("scaled down")
    assert await bench.actor.work() == "scaled down"
    assert [result.ordinal for result in bench.learner.results] == [7]


async def test_the_first_error_of_any_task_ends_the_actor(bench: Bench) -> None:
    bench.engine.gate = asyncio.Event()
    bench.newer(0)
    bench.learner.lease(0, 1)
    task = asyncio.create_task(bench.actor.work())
    await bench.until(lambda: bench.engine.running == 6)
    bench.engine.fail("killed")
    bench.engine.gate.set()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(EngineFailedError)


async def test_an_engine_that_dies_while_idle_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "REPORT_S", 0.01)
    task = asyncio.create_task(bench.actor.work())
    bench.engine.fail("killed")
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(EngineFailedError)


async def test_a_learner_that_refuses_the_actor_is_an_error(bench: Bench) -> None:
    bench.learner.say(Ended("protocol 2.0 is spoken here", refused=True))
    with pytest.raises(ExceptionGroup) as caught:
        await bench.actor.work()
    assert caught.group_contains(RbaError, match="protocol 2.0")


async def test_idle_time_is_told_by_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "REPORT_S", 0.005)
    bench.newer(0)
    async with working(bench):
        await bench.until(lambda: bench.actor.figures()["idle_seconds"].get("leases", 0) > 0.02)
        bench.learner.lease(0, step=1)
        await bench.until(lambda: bench.actor.figures()["idle_seconds"].get("weights", 0) > 0.02)
    rendered = bench.metrics.render().decode()
    assert 'rba_actor_idle_seconds_total{reason="weights"}' in rendered
    assert 0.9 < bench.actor.figures()["idle"] <= 1.0


async def test_a_spare_applies_versions_and_rests_until_it_is_told(bench: Bench) -> None:
    runner = GroupRunner(config("single"), bench.engine, Letters(), Tones(), None)  # type: ignore[arg-type]
    bench.actor = Actor(bench.learner, bench.fetch, bench.engine, runner, Gauges(bench.metrics), CAPACITY, spare=True)
    bench.newer(1)
    async with working(bench):
        await bench.until(lambda: bench.actor.applied == PolicyVersion(0, 1))
        assert (bench.actor.figures()["waits_for"], bench.actor.figures()["idle"]) == ("spare", None)
        bench.actor.rest(False)
        bench.actor.rest(False)
        assert bench.actor.figures()["waits_for"] == "leases"
        bench.learner.lease(0, step=1)
        await bench.until(lambda: bool(bench.learner.results))
        bench.actor.rest(True)
    assert bench.learner.sizes == [CAPACITY, 0]
    assert bench.actor.figures()["idle"] is not None
