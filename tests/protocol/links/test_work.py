"""Both ends of the link over real sockets on loopback: work goes out, results come back."""

from __future__ import annotations

import asyncio
import time

import msgspec

from protocol.codec import DIALOGUE_CAP_BYTES
from protocol.dialogue.actor import GREET_EVERY_S
from protocol.dialogue.actor_events import Granted, Registered, VersionKnown
from protocol.links.actor import split
from protocol.messages import LeasedGroup, Outcome, PolicyVersion
from tests.protocol import examples
from tests.protocol.links.made import Links, both_ways, intake, notice, until


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
    assert links.acknowledged == 0
    learner.settle(received)
    assert await actor.drained(5)
    assert links.acknowledged == 1
    assert actor.unacknowledged == 0
    assert learner.ledger().faults() == []


@both_ways
async def test_the_first_greeting_is_not_lost(links: Links) -> None:
    learner = links.learner()
    started_s = time.monotonic()
    await notice(links.actor(learner.endpoint), Registered)
    assert time.monotonic() - started_s < GREET_EVERY_S


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
async def test_what_was_settled_before_closing_is_acknowledged(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint)
    learner.offer([examples.leased(0)])
    await notice(actor, Granted)
    actor.send_results([examples.result(0)])
    learner.settle(await intake(learner))
    await asyncio.to_thread(learner.close, "completed")
    assert await actor.drained(5)


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


def test_a_result_that_is_too_large_goes_without_its_completions_and_says_why() -> None:
    small, huge = examples.result(0), examples.result(1, text="x" * DIALOGUE_CAP_BYTES)
    parts = split([small, huge, small])
    sent = [result for part in parts for result in part]
    assert sent[0] == sent[2] == small
    assert (sent[1].ordinal, sent[1].outcome, sent[1].completions) == (1, Outcome.FILTERED, [])
    assert "bytes" in sent[1].reason
    assert all(len(msgspec.msgpack.encode(part)) < DIALOGUE_CAP_BYTES for part in parts)


async def test_leases_that_are_too_large_for_one_message_go_in_several(links: Links) -> None:
    learner = links.learner()
    actor = links.actor(learner.endpoint, capacity=20)
    await notice(actor, Registered)

    def large(ordinal: int, size_bytes: int) -> LeasedGroup:
        leased = examples.leased(ordinal)
        return msgspec.structs.replace(leased, group=msgspec.structs.replace(leased.group, reference="x" * size_bytes))

    sizes = [DIALOGUE_CAP_BYTES // 10] * 15 + [DIALOGUE_CAP_BYTES // 10 * 9, 10, 10]
    offered = [large(ordinal, size_bytes) for ordinal, size_bytes in enumerate(sizes)]
    learner.offer(offered)
    granted: list[LeasedGroup] = []
    while len(granted) < len(sizes):
        granted += (await notice(actor, Granted)).lease.groups
    assert granted == offered
    assert [found["id"] for found in learner.status()["actors"]] == ["rollout-0"]


async def test_an_actor_that_gives_all_back_and_leaves_is_known_to_have_left(links: Links) -> None:
    learner = links.learner(heartbeat_s=60.0)
    actor = links.actor(learner.endpoint)
    await notice(actor, Registered)
    learner.offer([examples.leased(0)])
    await notice(actor, Granted)
    actor.give_back([])
    await asyncio.to_thread(actor.close, "scaled down")
    await until(lambda: not learner.status()["actors"] and learner.status()["offered"] == 1)
