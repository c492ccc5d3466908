"""Rollout actors that come, go, and take themselves for one another."""

from __future__ import annotations

import asyncio

import psutil

from protocol.dialogue.actor_events import Granted, Registered
from protocol.links.actor import ActorLink
from protocol.messages import PolicyVersion
from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.record import monotonic_s

VISITS = 50
SPARE_FDS = 8
SPARE_BYTES = 24 << 20


async def visit(endpoint: str, number: int) -> None:
    """Join, be leased something, and leave: every third one without a word."""
    link = ActorLink(endpoint, f"visitor-{number}", 0, 1)
    link.start()
    async with asyncio.timeout(20):
        while not isinstance(await link.next_event(), Registered | Granted):
            pass
    if number % 3:
        await asyncio.to_thread(link.close, "only looking")
    else:
        link._stop.set()
        await asyncio.to_thread(link._thread.join, 5)


def footprint(process: psutil.Process) -> tuple[int, int, int]:
    return process.num_fds(), process.num_threads(), process.memory_info().rss


def test_actors_join_and_leave_and_nothing_piles_up(drill: Drill, told: Told) -> None:
    drill.begin()
    joined_s = monotonic_s()
    drill.start_actor(2)
    recovery_s = drill.recovery_s(joined_s, process="rollout-2")
    rows = drill.rows("applied", "leased", "sent", process="rollout-2")
    assert rows[0]["event"] != "sent"
    newest = max(PolicyVersion.parse(row["version"]) for row in rows if row["event"] == "applied")
    assert newest >= PolicyVersion.parse(next(row["version"] for row in rows if row["event"] == "leased"))
    learner = drill.process("learner-0")
    drill.until(lambda: len(drill.status().get("actors", [])) == 3, "three actors")
    fds, threads, memory = footprint(learner)

    async def visits() -> None:
        for start in range(0, VISITS, 5):
            await asyncio.gather(*(visit(drill.learner_at, number) for number in range(start, start + 5)))

    asyncio.run(visits())
    drill.until(lambda: len(drill.status().get("actors", [])) == 3, "the visitors are forgotten")
    drill.until(lambda: footprint(learner)[0] <= fds + SPARE_FDS, "their connections are closed")
    assert footprint(learner)[1] == threads
    grown = footprint(learner)[2] - memory
    assert grown < SPARE_BYTES
    drill.goes_on()
    drill.finish()
    told(12, f"the newcomer has the current version before its first result; {VISITS} visits leave {grown / 1e6:.1f} MB", recovery_s)


def test_of_two_actors_of_one_name_the_newer_one_works(drill: Drill, told: Told) -> None:
    """The supervisor counts incarnations, so the newer one is the one that it started last."""
    drill.begin()
    first = drill.pids["rollout-0"]
    claimed_s = monotonic_s()
    drill.start_actor(0)
    drill.pids["first"] = first
    recovery_s = drill.recovery_s(claimed_s, process="rollout-0")
    drill.until(lambda: not drill.alive("first"), "the older one is refused, and ends")
    assert "is registered" in (drill.folder / "rollout-0.output").read_text()
    assert drill.logged("actor refused", "rollout-0", claimed_s)
    drill.until(lambda: any(row["pid"] == drill.pids["rollout-0"] for row in drill.rows("acked", since_s=claimed_s)), "its results")
    drill.goes_on()
    drill.finish()
    told(13, "the higher incarnation is served, the lower one is refused, logged, and ends", recovery_s)


def test_a_second_actor_of_the_same_incarnation_is_refused(drill: Drill, told: Told) -> None:
    """They share a routing id, so the learner's socket takes the one for the other; their messages must not be."""
    drill.begin()
    drill.pids["twin"] = drill.pids["rollout-0"]
    claimed_s = monotonic_s()
    drill.start_again("rollout-0")
    drill.until(lambda: not drill.alive("rollout-0") or not drill.alive("twin"), "one of them is refused, and ends")
    assert "in the same incarnation" in (drill.folder / "rollout-0.output").read_text()
    ended_s = monotonic_s()
    assert drill.logged("actor refused", "rollout-0", claimed_s)
    drill.recovery_s(claimed_s, process="rollout-1")
    drill.goes_on(5)
    if not drill.alive("rollout-0") and not drill.alive("twin"):
        drill.start_actor(0)
    recovery_s = drill.recovery_s(ended_s, process="rollout-0")
    drill.goes_on()
    drill.finish()
    told(13, "two processes of one name and incarnation: the later one is refused; nothing is lost or doubled", recovery_s)
