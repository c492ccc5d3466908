"""Both ends of the link over real sockets on loopback."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zmq

from protocol import sockets
from protocol.codec import DIALOGUE_CAP_BYTES, LEARNER_CODEC, encode
from protocol.dialogue import actor as acting
from protocol.dialogue.actor import Ended, Granted, Registered, VersionKnown
from protocol.dialogue.learner import Intake, LearnerDialogue
from protocol.errors import UserError
from protocol.gate import Door, server_door
from protocol.keyring import KeyPair, Keyring
from protocol.link import ActorLink, LearnerLink, LinkError, split
from protocol.messages import Heartbeat, Outcome, PolicyVersion, Refused
from tests.protocol import examples

VERSION = PolicyVersion(0, 0)


class Links:
    """Makes links and ends them after the test; with `keys`, guarded ones."""

    def __init__(self, keys: Keyring | None = None) -> None:
        self._open: list[LearnerLink | ActorLink] = []
        self.keys = keys
        self.refused: Counter[str] = Counter()

    def learner(self, port: int = 0, boot_id: str = "boot-1", heartbeat_s: float = 0.3, deadline_s: float = 60.0) -> LearnerLink:
        link = LearnerLink("127.0.0.1", port, LearnerDialogue("run", boot_id, VERSION, heartbeat_s, deadline_s), self._door())
        link.start()
        self._open.append(link)
        return link

    def actor(self, endpoint: str, actor_id: str = "rollout-0", incarnation: int = 0, capacity: int = 4) -> ActorLink:
        link = ActorLink(endpoint, actor_id, incarnation, capacity, keys=self.keys.client() if self.keys else None)
        link.start()
        self._open.append(link)
        return link

    def _door(self) -> Door | None:
        return server_door(self.keys, "pairs", lambda reason: self.refused.update([reason])) if self.keys else None

    def kill(self, link: LearnerLink | ActorLink) -> None:
        """It ends without a word."""
        link._stop.set()
        link._thread.join(5)

    def close(self) -> None:
        for link in reversed(self._open):
            link.close("test over")


@pytest_asyncio.fixture
async def links(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Links]:
    keys = Keyring(tmp_path / "keys") if getattr(request, "param", False) else None
    if keys is not None:
        keys.complete()
    made = Links(keys)
    yield made
    made.close()


both_ways = pytest.mark.parametrize("links", [False, True], ids=["plain", "keys"], indirect=True)
guarded = pytest.mark.parametrize("links", [True], ids=["keys"], indirect=True)


def port_of(link: LearnerLink) -> int:
    return int(link.endpoint.rpartition(":")[2])


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def notice(link: ActorLink, kind: type[Any], timeout_s: float = 10.0) -> Any:
    """The next notice of that kind."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = await link.next_event()
            if isinstance(found, kind):
                return found


async def intake(link: LearnerLink, timeout_s: float = 10.0) -> Intake:
    found = await asyncio.to_thread(link.intakes.get, True, timeout_s)
    assert found is not None
    return found


@both_ways
async def test_work_goes_out_and_comes_back(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint)
    registered = await notice(actor, Registered)
    assert (registered.welcome.run_id, registered.welcome.boot_id) == ("run", "boot-1")
    learner.offer([examples.leased(0), examples.leased(1)])
    granted = await notice(actor, Granted)
    assert [leased.ordinal for leased in granted.lease.groups] == [0, 1]
    assert granted.lease.groups[0] == examples.leased(0)
    actor.send_results([examples.result(0), examples.result(1)])
    assert actor.unacknowledged == 1
    received = await intake(learner)
    assert received.results == [examples.result(0), examples.result(1)]
    assert learner.ledger().unique == 2
    assert actor.unacknowledged == 1, "not acknowledged before it is settled"
    assert not await actor.drained(0.05)
    learner.settle(received)
    assert await actor.drained(5)
    assert actor.unacknowledged == 0
    assert learner.ledger().faults() == []


@both_ways
async def test_the_first_greeting_is_not_lost(links: Links) -> None:
    learner = links.learner()
    started_s = time.monotonic()
    await notice(links.actor(learner.endpoint), Registered)
    assert time.monotonic() - started_s < acting.GREET_EVERY_S


async def test_status_names_actors_and_counts(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint, "rollout-7", incarnation=3, capacity=1)
    await notice(actor, Registered)
    actor.report(PolicyVersion(0, 5), 1234)
    learner.offer([examples.leased(0), examples.leased(1)])
    await until(lambda: learner.status()["actors"] and learner.status()["actors"][0]["generated_tokens"] == 1234)
    status = learner.status()
    found = status["actors"][0]
    assert (found["id"], found["incarnation"], found["policy_version"], found["held_groups"]) == ("rollout-7", 3, "0.5", 1)
    assert 0 <= found["last_heartbeat_s"] < 5
    assert (status["outstanding"], status["offered"]) == (1, 1)
    assert status["ledger"]["leased"] == 1


async def test_a_published_version_becomes_known_without_work(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint)
    await notice(actor, Registered)
    learner.publish(PolicyVersion(0, 8))
    while (await notice(actor, VersionKnown)).version != PolicyVersion(0, 8):
        pass


async def test_a_late_joiner_gets_the_latest_version_and_waiting_work(links: Links) -> None:
    learner = links.learner()
    learner.publish(PolicyVersion(0, 8))
    learner.offer([examples.leased(0)])
    actor = links.actor(learner.endpoint)
    assert (await notice(actor, Registered)).welcome.policy_version == PolicyVersion(0, 8)
    assert (await notice(actor, Granted)).lease.policy_version == PolicyVersion(0, 8)


@both_ways
async def test_an_actor_that_starts_before_the_learner_finds_it(links: Links) -> None:
    first = links.learner()
    port = port_of(first)
    links.kill(first)
    actor = links.actor(f"tcp://127.0.0.1:{port}")
    links.learner(port)
    await notice(actor, Registered)


@both_ways
async def test_a_learner_that_starts_again_gets_the_unacknowledged_results_again(links: Links) -> None:
    first = links.learner()
    actor = links.actor(first.endpoint)
    first.offer([examples.leased(0), examples.leased(1)])
    await notice(actor, Granted)
    actor.send_results([examples.result(0)])
    acknowledged = await intake(first)
    first.settle(acknowledged)
    assert await actor.drained(5)
    actor.send_results([examples.result(1)])
    lost = await intake(first)
    port = port_of(first)
    links.kill(first)
    started_s = time.monotonic()
    second = links.learner(port, boot_id="boot-2")
    assert (await notice(actor, Registered)).welcome.boot_id == "boot-2"
    again = await intake(second)
    assert time.monotonic() - started_s < acting.RESEND_AFTER_S, "on the new boot id, not on the timeout"
    assert (again.actor_id, again.incarnation, again.sequence) == (lost.actor_id, lost.incarnation, lost.sequence)
    second.settle(again)
    assert await actor.drained(5)


@both_ways
async def test_work_of_a_killed_actor_goes_to_another_one(links: Links) -> None:
    learner = links.learner()
    doomed = links.actor(learner.endpoint, "rollout-0", capacity=2)
    learner.offer([examples.leased(0), examples.leased(1)])
    await notice(doomed, Granted)
    links.kill(doomed)
    heir = links.actor(learner.endpoint, "rollout-1", capacity=2)
    granted = await notice(heir, Granted)
    assert [(leased.ordinal, leased.lease_epoch) for leased in granted.lease.groups] == [(0, 1), (1, 1)]
    await until(lambda: learner.ledger().expired == 2)


@both_ways
async def test_an_actor_that_cannot_be_reached_loses_its_work_before_it_misses_a_heartbeat(links: Links) -> None:
    learner = links.learner(heartbeat_s=30)
    doomed = links.actor(learner.endpoint, "rollout-0", capacity=9)
    learner.offer([examples.leased(0)])
    await notice(doomed, Granted)
    links.kill(doomed)
    heir = links.actor(learner.endpoint, "rollout-1", capacity=4)
    await notice(heir, Registered)
    learner.offer([examples.leased(1)])
    granted = await notice(heir, Granted)
    assert [leased.ordinal for leased in granted.lease.groups] == [0, 1]


@both_ways
async def test_a_heartbeat_that_cannot_be_delivered_frees_the_work_of_a_killed_actor_for_a_spare(links: Links) -> None:
    learner = links.learner(heartbeat_s=30)
    doomed, spare = links.actor(learner.endpoint, "rollout-0"), links.actor(learner.endpoint, "rollout-1", capacity=0)
    learner.offer([examples.leased(0)])
    await notice(doomed, Granted)
    await notice(spare, Registered)
    links.kill(doomed)
    learner.publish(PolicyVersion(0, 1))
    await until(lambda: learner.ledger().expired == 1)
    await notice(spare, VersionKnown)
    spare.resize(2)
    assert (await notice(spare, Granted)).lease.groups[0].lease_epoch == 1


@both_ways
async def test_a_restarted_actor_is_a_new_incarnation_and_fences_the_old_one(links: Links) -> None:
    learner = links.learner()
    old = links.actor(learner.endpoint, incarnation=0)
    learner.offer([examples.leased(0)])
    await notice(old, Granted)
    links.kill(old)
    new = links.actor(learner.endpoint, incarnation=1)
    assert (await notice(new, Granted)).lease.groups[0].lease_epoch == 1
    late = links.actor(learner.endpoint, incarnation=0)
    assert (await notice(late, Ended)).refused


@both_ways
async def test_a_leaving_actor_gives_its_work_back_at_once(links: Links) -> None:
    learner = links.learner(heartbeat_s=30)
    leaving = links.actor(learner.endpoint, "rollout-0")
    learner.offer([examples.leased(0)])
    await notice(leaving, Granted)
    staying = links.actor(learner.endpoint, "rollout-1")
    await notice(staying, Registered)
    leaving.close("drained")
    assert (await notice(staying, Granted)).lease.groups[0].lease_epoch == 1


@both_ways
async def test_a_learner_that_closes_says_so(links: Links) -> None:
    learner = links.learner()
    actors = [links.actor(learner.endpoint, f"rollout-{number}") for number in range(3)]
    for actor in actors:
        await notice(actor, Registered)
    started_s = time.monotonic()
    await asyncio.to_thread(learner.close, "completed")
    assert time.monotonic() - started_s < 1.0
    for actor in actors:
        ended = await notice(actor, Ended)
        assert (ended.reason, ended.refused) == ("completed", False)
    assert learner.intakes.get(block=False) is None
    learner.close("twice")


@both_ways
async def test_a_learner_that_fails_says_nothing_and_is_waited_for(links: Links) -> None:
    first = links.learner()
    actor = links.actor(first.endpoint)
    await notice(actor, Registered)
    port = port_of(first)
    await asyncio.to_thread(first.abandon)
    links.learner(port, boot_id="boot-2")
    seen = await actor.next_event()
    while not isinstance(seen, Registered):
        assert not isinstance(seen, Ended)
        seen = await actor.next_event()
    assert seen.welcome.boot_id == "boot-2"


@both_ways
async def test_what_was_settled_before_closing_is_acknowledged(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint)
    learner.offer([examples.leased(0)])
    await notice(actor, Granted)
    actor.send_results([examples.result(0)])
    learner.settle(await intake(learner))
    await asyncio.to_thread(learner.close, "completed")
    assert await actor.drained(5)


class Broken:
    """A dialogue that fails."""

    def handle(self, _event: object) -> None:
        raise ZeroDivisionError("broken on purpose")


@both_ways
async def test_an_error_in_the_learners_thread_surfaces_and_wakes_who_waits(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = links.learner()

    monkeypatch.setattr(learner, "_dialogue", Broken())
    assert await asyncio.to_thread(learner.intakes.get, True, 5) is None
    with pytest.raises(LinkError, match="broken on purpose"):
        learner.raise_if_failed()
    learner.offer([examples.leased(0)])
    learner.close("anyway")


async def test_an_error_in_the_actors_thread_surfaces_in_whoever_waits(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint)
    await notice(actor, Registered)
    actor.send_results([examples.result(0)])
    draining = asyncio.create_task(actor.drained(30))
    await asyncio.sleep(0)

    monkeypatch.setattr(actor, "_dialogue", Broken())
    with pytest.raises(LinkError, match="broken on purpose"):
        await notice(actor, Ended)
    with pytest.raises(LinkError, match="broken on purpose"):
        await draining


@both_ways
async def test_a_taken_port_is_the_users_error(links: Links) -> None:
    learner = links.learner()
    with pytest.raises(UserError, match=str(port_of(learner))) as caught:
        links.learner(port_of(learner))
    assert caught.value.fix


@both_ways
async def test_rubbish_leaves_the_link_as_it_was(links: Links) -> None:
    learner = links.learner()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    kept = []
    for frames in ([b""], [b"RBA\x01\0", b"\x91" * 100_000], [b"pickle"] * 50, [b"x" * (DIALOGUE_CAP_BYTES + 1)], [b"y" * 900_000] * 64):
        socket = context.socket(zmq.DEALER)
        kept.append(socket)  # one that is forgotten lingers for ever over what a guarded link does not take
        socket.connect(learner.endpoint)
        socket.send_multipart(frames)
    actor = links.actor(learner.endpoint)
    await notice(actor, Registered)
    learner.offer([examples.leased(0)])
    await notice(actor, Granted)
    learner.raise_if_failed()
    await asyncio.to_thread(context.destroy, linger=0)


async def test_an_actor_of_another_major_version_is_told(links: Links) -> None:
    learner = links.learner()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(learner.endpoint)
    socket.send_multipart([b"RBA\x09\x00", b"\x80"])
    assert await asyncio.to_thread(socket.poll, 5_000)
    answer, _ = LEARNER_CODEC.decode(socket.recv_multipart())
    assert isinstance(answer, Refused)
    assert "9.0" in answer.reason
    context.destroy(linger=0)


async def test_a_learner_of_another_major_version_ends_the_actor(links: Links) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    actor = links.actor(f"tcp://127.0.0.1:{port}")
    peer, *_ = await asyncio.to_thread(socket.recv_multipart)
    socket.send_multipart([peer, b"RBA\x09\x00", b"\x80"])
    ended = await notice(actor, Ended)
    assert ended.refused
    assert "9.0" in ended.reason
    context.destroy(linger=0)


async def test_a_late_result_of_a_silent_actor_counts_once(links: Links) -> None:
    """A peer that stops its heartbeats loses its lease, and its late result is a duplicate."""
    learner = links.learner(heartbeat_s=0.1)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    slow = context.socket(zmq.DEALER)
    slow.setsockopt(zmq.IDENTITY, b"slow/0")
    slow.connect(learner.endpoint)
    slow.send_multipart(encode(examples.hello("slow", capacity=1)))
    await until(lambda: learner.status()["actors"])
    learner.offer([examples.leased(0)])
    quick = links.actor(learner.endpoint, "quick", capacity=1)
    assert (await notice(quick, Granted)).lease.groups[0].lease_epoch == 1
    quick.send_results([examples.result(0, 1)])
    learner.settle(await intake(learner))
    slow.send_multipart(encode(examples.hello("slow", capacity=1)))
    slow.send_multipart(encode(examples.results([0], 0, "slow")))
    slow.send_multipart(encode(Heartbeat()))
    late = await intake(learner)
    assert (late.actor_id, late.results) == ("slow", [])
    await until(lambda: learner.ledger().duplicate == 1)
    ledger = learner.ledger()
    assert (ledger.unique, ledger.duplicate, ledger.expired) == (1, 1, 1)
    assert ledger.faults() == []
    context.destroy(linger=0)


@both_ways
async def test_many_results_in_one_call_travel_in_messages_below_the_cap(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint, capacity=40)
    learner.offer([examples.leased(ordinal) for ordinal in range(40)])
    await notice(actor, Granted)
    actor.send_results([examples.result(ordinal, text="x" * 100_000) for ordinal in range(40)])
    ordinals: list[int] = []
    while len(ordinals) < 40:
        part = await intake(learner)
        ordinals += [result.ordinal for result in part.results]
        learner.settle(part)
    assert sorted(ordinals) == list(range(40))
    assert await actor.drained(5)


@guarded
async def test_a_revoked_actor_is_told_and_its_work_goes_to_another_one_at_once(links: Links) -> None:
    assert links.keys is not None
    learner = links.learner(heartbeat_s=5.0)
    b = zmq.curve_keypair()
    links.keys.allow(b[0].decode(), "b")
    keys = replace(links.keys.client(), own=KeyPair(b[0].decode(), b[1]))
    revoked = ActorLink(learner.endpoint, "rollout-b", 0, 4, keys=keys)
    revoked.start()
    await notice(revoked, Registered)
    learner.offer([examples.leased(0)])
    await notice(revoked, Granted)
    links.keys.revoke("b")
    assert learner._gate is not None
    await until(lambda: learner._gate._door.name_of(b[0].decode()) is None)  # type: ignore[union-attr]
    revoked.send_results([examples.result(0)])
    ended = await notice(revoked, Ended)
    assert ended.refused
    assert "no longer allowed" in ended.reason
    assert links.refused["revoked"] >= 1
    other = links.actor(learner.endpoint)
    granted = await notice(other, Granted)
    assert [(leased.ordinal, leased.lease_epoch) for leased in granted.lease.groups] == [(0, 1)]
    ledger = learner.ledger()
    assert (ledger.received, ledger.expired) == (0, 1), "what it sent never reached the ledger"
    assert ledger.faults() == []
    await asyncio.to_thread(revoked.close)


@guarded
async def test_an_actor_that_is_not_allowed_yet_waits_for_it(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 300)
    assert links.keys is not None
    learner = links.learner()
    links.keys.revoke("actor")
    actor = links.actor(learner.endpoint)
    await until(lambda: links.refused["unknown_key"] or links.refused["revoked"])
    assert learner.status()["actors"] == []
    links.keys.allow(links.keys.public("actor"), "again")
    await notice(actor, Registered)


def test_a_result_that_is_too_large_goes_without_its_completions_and_says_why() -> None:
    small, huge = examples.result(0), examples.result(1, text="x" * DIALOGUE_CAP_BYTES)
    parts = split([small, huge, small])
    sent = [result for part in parts for result in part]
    assert sent[0] == sent[2] == small
    assert (sent[1].ordinal, sent[1].outcome, sent[1].completions) == (1, Outcome.FILTERED, [])
    assert "bytes" in sent[1].reason
    assert all(len(msgspec.msgpack.encode(part)) < DIALOGUE_CAP_BYTES for part in parts)
