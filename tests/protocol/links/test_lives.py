"""Actors and learners that come, go, fall silent and fail, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import psutil
import pytest
import zmq

from protocol.codec import encode
from protocol.dialogue import learner_events as learning
from protocol.dialogue.actor import RESEND_AFTER_S
from protocol.dialogue.actor_events import Ended, Granted, Registered, VersionKnown
from protocol.dialogue.learner import LearnerDialogue
from protocol.links.loop import LinkError
from protocol.messages import Heartbeat, PolicyVersion
from tests.protocol import examples
from tests.protocol.links.made import Links, both_ways, intake, notice, port_of, until


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
    assert time.monotonic() - started_s < RESEND_AFTER_S, "on the new boot id, not on the timeout"
    assert (again.actor_id, again.incarnation, again.sequence) == (lost.actor_id, lost.incarnation, lost.sequence)
    second.settle(again)
    assert await actor.drained(5)


@both_ways
async def test_a_learner_that_starts_again_within_a_heartbeat_is_greeted_at_once(links: Links) -> None:
    first = links.learner(heartbeat_s=60)
    actor = links.actor(first.endpoint)
    await notice(actor, Registered)
    port = port_of(first)
    links.kill(first)
    links.learner(port, boot_id="boot-2", heartbeat_s=60)
    assert (await notice(actor, Registered)).welcome.boot_id == "boot-2"


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
    doomed = links.actor(learner.endpoint, "rollout-0", capacity=10_000)
    learner.offer([examples.leased(0)])
    await notice(doomed, Granted)
    links.kill(doomed)
    ordinals = itertools.count(1)

    def lost() -> bool:  # ZeroMQ takes messages for it until it has seen the connection's end
        learner.offer([examples.leased(next(ordinals))])
        return learner.ledger().expired > 1

    await until(lost)
    heir = links.actor(learner.endpoint, "rollout-1", capacity=2)
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
    steps = itertools.count(1)

    def lost() -> bool:  # ZeroMQ takes messages for it until it has seen the connection's end
        learner.publish(PolicyVersion(0, next(steps)))
        return learner.ledger().expired == 1

    await until(lost)
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
async def test_a_learner_that_finds_the_connection_gone_hears_the_last_words_first(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = links.learner(heartbeat_s=30)
    leaving = links.actor(learner.endpoint)
    await notice(leaving, Registered)
    handle, about_to_tell, gone = LearnerDialogue.handle, threading.Event(), threading.Event()
    said: list[str] = []

    def slow(self: LearnerDialogue, event: learning.Event) -> list[learning.Action]:
        if isinstance(event, learning.Published):
            about_to_tell.set()
            assert gone.wait(60)
        actions = handle(self, event)
        said.extend(action.event for action in actions if isinstance(action, learning.Log))
        return actions

    monkeypatch.setattr(LearnerDialogue, "handle", slow)
    learner.publish(PolicyVersion(0, 1))
    assert await asyncio.to_thread(about_to_tell.wait, 10)
    await asyncio.to_thread(leaving.close, "drained")
    await until(lambda: not connected_to(port_of(learner)))
    gone.set()
    await until(lambda: not learner.status()["actors"])
    assert "actor left" in said
    assert "actor unreachable" not in said


@both_ways
async def test_a_learner_that_closes_says_so(links: Links) -> None:
    learner = links.learner()
    actors = [links.actor(learner.endpoint, f"rollout-{number}") for number in range(3)]
    for actor in actors:
        await notice(actor, Registered)
    started_s = time.monotonic()
    await asyncio.to_thread(learner.close, "completed")
    assert time.monotonic() - started_s < 4
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


def connected_to(port: int) -> bool:
    """Whether this process has a connection to its own `port` that stands."""
    listed = psutil.Process().net_connections("tcp")
    return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in listed)


class Broken:
    """A dialogue that fails."""

    unacknowledged: tuple[()] = ()

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
