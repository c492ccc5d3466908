"""The role as a whole: real links, weight store, fetcher, data set and reward server around a scripted engine, and around vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import soundfile

from configs.sampling import RewardsSection
from configs.schema import RunConfig
from protocol.dataset import ManifestWriter
from protocol.dialogue.learner import LearnerDialogue
from protocol.gate import server_door
from protocol.keyring import ACTOR, Keyring
from protocol.links.learner import LearnerLink
from protocol.messages import (
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    Purpose,
    Utterance,
)
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.store import WeightStore
from tests.actors.rollout.conftest import ENGINE
from tests.actors.rollout.scripted import ScriptedEngine
from tests.actors.rollout.weights import Weights
from tests.namespaces import Cable
from tests.tiny import tone

if TYPE_CHECKING:
    from actors.rollout.main import RolloutActor


class Job:
    """Everything around one rollout actor, which with `cable` is on another machine, and has keys of its own there."""

    def __init__(self, checkpoint: Path, folder: Path, weights: Weights, keys: Path | None = None, cable: Cable | None = None) -> None:
        self.folder, self.weights = folder, weights
        host, self.far = (cable.near.address, cable.far.inside) if cable is not None else ("127.0.0.1", contextlib.nullcontext)
        door = None
        if keys is not None:
            Keyring(keys).complete()
            door = server_door(Keyring(keys), "pairs", lambda reason: pytest.fail(reason))
        theirs = far_keys(Keyring(keys), folder / "far") if keys is not None and cable is not None else keys
        weights.root = folder / "published"
        self.groups = write_dataset(folder / "train.jsonl", 6)
        self.threads = ThreadPoolExecutor(8)
        self.link = LearnerLink(host, 0, LearnerDialogue("run", "boot", PolicyVersion(0, 0), 0.5, 60.0), door)
        self.link.start()
        self.store = WeightStore(weights.root, bind=host, keys=keys)
        with self.far():
            self.fetcher = NodeFetcher(self.store.describe()["endpoints"]["weights"], folder / "fetched", keys=theirs)
        self.config = RunConfig.model_validate(
            {
                "model": {"path": str(checkpoint), "dtype": "float32"},
                "data": {"train": str(folder / "train.jsonl"), "max_audio_s": 4.0},
                "rollout": {"capacity_groups": 3, "sampling": {"max_tokens": 12}, "engine": ENGINE, "cpu_threads": 1},
                "rewards": {"scorer": "bleu"},
                "network": {"keys": str(theirs) if theirs is not None else None},
            }
        )
        self.services = [self.threads.submit(self.store.run)]
        with self.far():
            self.services.append(self.threads.submit(self.fetcher.run))
        self.urls: list[str] = []
        self.results: list[GroupResult] = []
        self.ordinals = itertools.count()

    def serve_rewards(self) -> None:
        from actors.rewards.server import RewardServer

        self.rewards = RewardServer(RewardsSection(scorer="bleu"), "127.0.0.1", 0)
        self.urls = [self.rewards.url]
        self.services.append(self.threads.submit(self.rewards.run))

    def actor(self, engine: ScriptedEngine | None = None, *, spare: bool = False, reward_urls: list[str] | None = None) -> RolloutActor:
        from actors.rollout.main import RolloutActor

        fetcher = self.fetcher.describe()["endpoints"]["fetcher"]
        return RolloutActor(self.config, 0, self.link.endpoint, fetcher, reward_urls or self.urls, self.folder, engine, spare=spare)

    def start(self, actor: RolloutActor) -> Future[dict[str, Any]]:
        """Runs it, as Ray does, in a thread that is not the main one."""
        with self.far():
            return self.threads.submit(actor.run)

    def publish(self) -> PolicyVersion:
        version = self.weights.publish().policy_version
        self.link.publish(version)
        return version

    def offer(self, *numbers: int, purpose: Purpose = Purpose.TRAIN) -> None:
        self.link.offer([LeasedGroup(ordinal := next(self.ordinals), 0, self.groups[number], purpose, ordinal) for number in numbers])

    def collect(self, count: int, timeout_s: float = 60) -> list[GroupResult]:
        """The first `count` results so far, in the order of their ordinals."""
        give_up_s = time.monotonic() + timeout_s
        while len(self.results) < count:
            assert (intake := self.link.intakes.get(timeout=max(0.01, give_up_s - time.monotonic()))) is not None
            self.results += intake.results
            self.link.settle(intake)
        return sorted(self.results, key=lambda result: result.ordinal)

    def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_s
            time.sleep(0.01)

    def close(self) -> None:
        self.link.close("the test is over")
        self.fetcher.stop("the test is over")
        self.store.stop("the test is over")
        if self.urls:
            self.rewards.stop("the test is over")
        for service in self.services:
            service.result(20)
        self.threads.shutdown()


def far_keys(ours: Keyring, folder: Path) -> Path:
    """The folder of another machine: a key of its own, which is allowed here, and the learner's public one."""
    Keyring(folder).generate(ACTOR)
    shutil.copy(ours.folder / "server.key", folder)
    ours.allow(Keyring(folder).public(ACTOR), "far")
    ours.revoke(ACTOR)
    return folder


async def _open(gate: asyncio.Event) -> None:
    gate.set()


def write_dataset(path: Path, count: int) -> list[InstructionGroup]:
    """Three voices and the text each."""
    groups = []
    with ManifestWriter(path) as manifest:
        for number in range(count):
            utterances = []
            for voice in range(3):
                soundfile.write(path.parent / "clip.flac", tone(1.0 + 0.2 * voice, 10 * number + voice), 16_000, subtype="PCM_16")
                utterances.append(Utterance(f"voice-{voice}", manifest.add_audio((path.parent / "clip.flac").read_bytes()), 1.0))
            groups.append(InstructionGroup(f"g{number}", f"what is {number}", "abcd efgh ijkl", [*utterances, Utterance("text")]))
            manifest.add(groups[-1])
    return groups


@pytest.fixture
def job(checkpoint: Path, tmp_path: Path, weights: Weights, request: pytest.FixtureRequest) -> Iterator[Job]:
    made = Job(checkpoint, tmp_path, weights, tmp_path / "keys" if getattr(request, "param", False) else None)
    yield made
    made.close()


@pytest.mark.parametrize("job", [False, True], ids=["plain", "keys"], indirect=True)
def test_a_job_from_the_first_lease_to_the_learners_bye(job: Job) -> None:
    job.serve_rewards()
    words = itertools.cycle(["abcd efgh", "abcd", "zzzz"])
    actor = job.actor(ScriptedEngine(lambda _: next(words)))
    running = job.start(actor)
    first = job.publish()
    job.offer(0, 1, 2, 3)
    assert {result.outcome for result in job.collect(4)} == {Outcome.PAIRS}
    second = job.publish()
    job.offer(4, purpose=Purpose.EVALUATE)
    evaluated = job.collect(5)[4]
    assert evaluated.measures is not None
    assert (evaluated.measures.answers, evaluated.measures.scored) == (4, 4)
    assert {span.version for each in evaluated.completions for span in each.spans} <= {first, second}
    exported = httpx.get(actor.describe()["metrics_url"]).text
    assert "rba_reward_request_seconds_count" in exported
    assert actor.status()["state"] == "working"
    job.until(lambda: job.link.status()["actors"][0]["policy_version"] == str(second))
    job.link.close("completed")
    figures = running.result(20)
    assert (figures["status"], figures["groups"], figures["pushes"]) == ("completed", 5, 2)
    assert figures["completions"] == 4 * 3 + 4
    assert actor.status()["state"] == "ended"


@pytest.fixture
def cable() -> Iterator[Cable]:
    laid = Cable()
    try:
        laid.lay()
        yield laid
    finally:
        laid.take_up()


def test_an_actor_on_another_machine_works_by_its_key_and_goes_on_after_a_partition(
    checkpoint: Path, tmp_path: Path, weights: Weights, cable: Cable
) -> None:
    engine = ScriptedEngine()
    with cable.near.inside():
        job = Job(checkpoint, tmp_path, weights, tmp_path / "keys", cable)
        try:
            job.config.strategy = "single"
            running = job.start(actor := job.actor(engine))
            job.publish()
            job.offer(0, 1)
            assert all(result.completions for result in job.collect(2))

            engine.gate = asyncio.Event()
            job.offer(2, 3)
            job.until(lambda: engine.running > 0)
            cable.cut()
            job.until(lambda: not job.link.status()["actors"])
            assert job.link.status()["ledger"]["expired"] == 2, "others could have them"
            newest = job.publish()
            assert actor._loop is not None
            actor._loop.call_soon_threadsafe(engine.gate.set)
            job.until(lambda: actor.status()["held_groups"] == 0)

            cable.mend()
            assert all(result.completions for result in job.collect(4)), "what was sampled meanwhile comes, once"
            job.until(lambda: [each["policy_version"] for each in job.link.status()["actors"]] == [str(newest)])
            job.offer(4)
            (last,) = job.collect(5)[4:]
            assert {span.version for each in last.completions for span in each.spans} == {newest}
            assert job.link.ledger().unique == 5
            actor.stop("enough")
            assert running.result(20)["status"] == "enough"
        finally:
            actor.stop("the test is over")
            job.close()


def test_audio_that_is_gone_is_an_outcome(job: Job) -> None:
    job.serve_rewards()
    damaged = job.groups[1].utterances[0].audio
    assert damaged is not None
    next(job.folder.rglob(f"{damaged.removeprefix('xxh128:')}.flac")).unlink()
    running = job.start(actor := job.actor(ScriptedEngine()))
    job.publish()
    job.offer(0, 1)
    assert [result.outcome is Outcome.FILTERED for result in job.collect(2)] == [False, True]
    assert "cannot be read" in job.results[-1].reason + job.results[0].reason
    actor.stop("enough")
    assert running.result(20)["status"] == "enough"


def test_stop_gives_leases_back_and_says_bye(job: Job) -> None:
    engine = ScriptedEngine()
    engine.gate = asyncio.Event()
    job.config.strategy = "single"
    running = job.start(actor := job.actor(engine))
    job.publish()
    job.offer(0, 1)
    job.until(lambda: engine.running == 6)
    actor.stop("scaled down")
    assert running.result(20)["status"] == "scaled down"
    assert engine.running == 0
    job.until(lambda: not job.link.status()["actors"], 5)
    assert job.link.status()["ledger"]["expired"] == 2


@pytest.mark.parametrize("drain_s", [600.0, 0.05])
def test_draining_hands_over_what_is_under_way_and_gives_the_rest_to_others(job: Job, drain_s: float) -> None:
    engine = ScriptedEngine()
    engine.gate = asyncio.Event()
    job.config.strategy, job.config.fleet.drain_s = "single", drain_s
    running = job.start(actor := job.actor(engine))
    job.publish()
    job.offer(*range(job.config.rollout.capacity_groups))
    begun = job.config.rollout.capacity_groups
    job.until(lambda: engine.running == 3 * begun)
    actor.drain("scaled down")
    if drain_s > 1:
        job.until(lambda: actor.status()["state"] == "draining")
        job.offer(0)
        asyncio.run_coroutine_threadsafe(_open(engine.gate), actor._loop).result(10)  # type: ignore[arg-type]
        assert len(job.collect(begun)) == begun
    figures = running.result(30)
    job.until(lambda: not job.link.status()["actors"], 5)
    ledger = job.link.status()["ledger"]
    assert figures["status"] == "scaled down"
    assert (ledger["settled"], ledger["expired"], ledger["rejected"]) == ((begun, 0, 0) if drain_s > 1 else (0, begun, 0))
    assert job.link.status()["offered"] == (1 if drain_s > 1 else begun)


def test_stop_while_the_engine_starts(job: Job) -> None:
    engine = ScriptedEngine()
    engine.starting = asyncio.Event()
    running = job.start(actor := job.actor(engine))
    job.until(lambda: actor.status()["state"] == "starting the engine")
    actor.stop("changed my mind")
    assert running.result(20)["status"] == "changed my mind"


def test_an_engine_that_dies_fails_the_role(job: Job) -> None:
    job.config.strategy = "single"
    engine = ScriptedEngine()
    running = job.start(job.actor(engine))
    job.publish()
    job.offer(0)
    job.collect(1)
    engine.fail("killed")
    with pytest.raises(Exception, match="killed"):
        running.result(20)
    job.until(lambda: not job.link.status()["actors"], 5)


def test_a_spare_takes_over_and_asks_other_reward_servers_when_it_is_told(job: Job) -> None:
    job.serve_rewards()
    words = itertools.cycle(["abcd efgh", "abcd", "zzzz"])
    actor = job.actor(ScriptedEngine(lambda _: next(words)), spare=True, reward_urls=["http://127.0.0.1:1"])
    running = job.start(actor)
    version = job.publish()
    job.offer(0, 1)
    job.until(lambda: [each["policy_version"] for each in job.link.status()["actors"]] == [str(version)])
    assert job.link.status()["offered"] == 2
    actor.adjust(spare=False, reward_urls=job.urls)
    assert {result.outcome for result in job.collect(2)} == {Outcome.PAIRS}
    actor.adjust(spare=True, reward_urls=[])
    job.until(lambda: job.link.status()["actors"][0]["capacity_groups"] == 0)
    actor.stop("enough")
    assert running.result(20)["groups"] == 2


def test_what_a_spare_is_told_while_its_engine_starts_holds(job: Job) -> None:
    engine = ScriptedEngine()
    engine.starting = asyncio.Event()
    job.config.strategy = "single"
    running = job.start(actor := job.actor(engine, spare=True))
    job.until(lambda: actor.status()["state"] == "starting the engine")
    actor.adjust(spare=False, reward_urls=[])
    assert actor._loop is not None
    actor._loop.call_soon_threadsafe(engine.starting.set)
    job.publish()
    job.offer(0)
    job.collect(1)
    actor.stop("enough")
    running.result(20)


@pytest.mark.engine
def test_a_job_with_vllm(job: Job) -> None:
    """Groups are sampled while versions change under them; nothing is left behind."""
    job.serve_rewards()
    before = set(threading.enumerate())
    running = job.start(actor := job.actor())
    job.publish()
    job.offer(*range(6))
    results = job.collect(6, 200)
    assert all(result.completions for result in results)
    for _ in range(5):
        job.weights.perturb("multi_modal_projector", 0.1)
        job.publish()
        job.offer(*range(6))
    newest = job.publish()
    job.offer(0, 1, purpose=Purpose.EVALUATE)
    results = job.collect(6 * 6 + 2)
    assert [result.ordinal for result in results] == list(range(38))
    for result in results[-2:]:
        assert {span.version for each in result.completions for span in each.spans} == {newest}
        assert result.measures is not None
    assert all(each.reward is not None for result in results for each in result.completions)
    actor.stop("enough")
    figures = running.result(30)
    assert figures["pushes"] >= 2
    assert figures["refused_versions"] == 0
    job.weights.restore()
    assert not [thread for thread in set(threading.enumerate()) - before if "EngineMonitor" in thread.name]
