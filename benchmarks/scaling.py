"""One learner's endpoint and a fleet of 1 to 128 rollout actors: the real link, exchange and journal, with simulated actors.

    python -m benchmarks.scaling [--json FILE]

An actor takes a set time for each group, so a fleet's rate ought to be the one of a single actor times their number, until the
endpoint is at its ceiling, which is measured with actors that take no time. The other rows: what an actor costs at the endpoint; how long
it takes until work goes on after the learner, or half of the actors, are killed; and how much longer a step takes than the longer one of
generation and training, which overlap unless `learner.max_policy_lag` is 0.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import command
from benchmarks.exchange.endpoint import Endpoint
from benchmarks.exchange.fleet import Shape, finished, start
from benchmarks.exchange.load import Load
from benchmarks.rows import row
from protocol.dialogue.learner import SILENT_HEARTBEATS
from protocol.links.loop import TICK_MS
from protocol.logs import configure

PAIRS, CAPACITY, GENERATION_S = 8, 4, 0.4
FLEETS = (1, 2, 4, 8, 16, 32, 64, 128)
LINEAR = 0.95
WARM_S, MEASURED_S = 2.0, 4.0
BACK_S = 2.0
"""Goal from the learner's endpoint being up again to the first acknowledged pair."""
HEARTBEAT_S = 1.0
STEP_GROUPS = 64
OVERLAP = 1.05


def rate(folder: Path, actors: int, generation_s: float) -> float:
    """Durable pairs a second of a fleet."""
    groups = actors * CAPACITY
    with Endpoint(folder / f"{actors}-{generation_s}", Load(PAIRS), groups, max_policy_lag=3) as learner:
        fleet = start(learner.link.endpoint, Shape(actors, CAPACITY, generation_s, PAIRS))
        try:
            learner.run(lambda: len(learner.link.status()["actors"]) == actors)
            found = learner.rate(WARM_S, MEASURED_S)
            learner.close()
            finished(fleet)
        finally:
            fleet.kill()
    return found


def growth(folder: Path) -> list[dict[str, Any]]:
    """Rates beside the single actor's times the number, or beside the ceiling where that is less."""
    ceiling = rate(folder, 8, 0.0)
    found = {actors: rate(folder, actors, GENERATION_S) for actors in FLEETS}
    one, rows = found[1], list[dict[str, Any]]()
    for actors, reached in found.items():
        free = actors * one <= ceiling
        peer = "one actor times their number" if free else "ceiling, actors that take no time"
        name = f"{actors} actor{'s' * (actors > 1)}"
        rows.append(row(name, "pairs/s", reached, peer, min(actors * one, ceiling), LINEAR if free else None))
    return rows


def costs(folder: Path) -> list[dict[str, Any]]:
    """Memory and descriptors of an actor that is registered, beside those of the endpoint without any."""
    rows = []
    with Endpoint(folder / "costs", Load(PAIRS), 1) as learner:
        process = psutil.Process()
        before = process.memory_info().rss, process.num_fds()
        fleet = start(learner.link.endpoint, Shape(FLEETS[-1], CAPACITY, 3600.0, PAIRS))
        try:
            learner.run(lambda: len(learner.link.status()["actors"]) == FLEETS[-1])
            after = process.memory_info().rss, process.num_fds()
            learner.close()
            finished(fleet)
        finally:
            fleet.kill()
    for unit, was, became in zip(("bytes", "descriptors"), before, after, strict=True):
        rows.append(row("an actor at the endpoint", unit, (became - was) / FLEETS[-1], "endpoint without actors", was, None))
    return rows


def return_of_the_learner(folder: Path) -> dict[str, Any]:
    """From the second boot's endpoint being up to the first acknowledgement that an actor hears from it."""
    first = Endpoint(folder / "first", Load(PAIRS), 16, heartbeat_s=HEARTBEAT_S)
    port = int(first.link.endpoint.rpartition(":")[2])
    fleet = start(first.link.endpoint, Shape(16, CAPACITY, 0.1, PAIRS))
    try:
        first.run(lambda: first.pairs >= 1000)
        first.link.abandon()
        first.journal.close()
        with Endpoint(folder / "second", Load(PAIRS), 16, port=port, boot=1, heartbeat_s=HEARTBEAT_S) as second:
            second.run(lambda: second.pairs >= 1000)
            second.close()
            seen = finished(fleet)
        return row("learner back, to the first acknowledged pair", "s", seen.first_ack_s["boot-1"] - second.up_s, "goal", BACK_S, 1.0)
    finally:
        fleet.kill()


def loss_of_actors(folder: Path) -> dict[str, Any]:
    """From the kill of half of the actors to all of their groups being leased again."""
    with Endpoint(folder / "loss", Load(PAIRS), 16 * CAPACITY, heartbeat_s=HEARTBEAT_S) as learner:
        staying = start(learner.link.endpoint, Shape(8, 4 * CAPACITY, 0.1, PAIRS))
        doomed = start(learner.link.endpoint, Shape(8, CAPACITY, 3600.0, PAIRS, first=8))
        try:
            learner.run(lambda: len(learner.link.status()["actors"]) == 16)
            learner.run(lambda: held(learner) == 8 * CAPACITY)
            killed_s, before = time.monotonic(), learner.link.ledger().expired
            doomed.kill()
            learner.run(lambda: learner.link.ledger().expired >= before + 8 * CAPACITY and not learner.link.status()["offered"])
            seconds = time.monotonic() - killed_s
            learner.close()
            finished(staying)
        finally:
            staying.kill()
            doomed.kill()
    timeout_s = SILENT_HEARTBEATS * HEARTBEAT_S + TICK_MS / 1000
    return row("killed actors' groups leased again", "s", seconds, "heartbeat timeout and a tick", timeout_s, 1.0)


def held(learner: Endpoint) -> int:
    """Groups of the actors that never finish."""
    return sum(actor["held_groups"] for actor in learner.link.status()["actors"] if int(actor["id"].rpartition("-")[2]) >= 8)


def step_s(folder: Path, generation_s: float, training_s: float, max_policy_lag: int, steps: int = 6) -> float:
    """Seconds of a step, when a fleet takes `generation_s` for its groups and the learner `training_s` to train on them."""
    name = f"{generation_s}-{training_s}-{max_policy_lag}"
    with Endpoint(folder / name, Load(PAIRS), STEP_GROUPS, max_policy_lag=max_policy_lag) as learner:
        fleet = start(learner.link.endpoint, Shape(STEP_GROUPS // CAPACITY, CAPACITY, generation_s, PAIRS))
        try:
            learner.run(lambda: learner.step >= 2, training_s)
            started_s, before = time.monotonic(), learner.step
            learner.run(lambda: learner.step >= before + steps, training_s)
            seconds = (time.monotonic() - started_s) / (learner.step - before)
            learner.close()
            finished(fleet)
        finally:
            fleet.kill()
    return seconds


def overlap(folder: Path) -> list[dict[str, Any]]:
    """Steps with overlap beside the longer one of generation and training, and without it beside both."""
    rows = []
    for generation_s, training_s in ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0)):
        times = f"step, generation {generation_s:g} s, training {training_s:g} s"
        taken = step_s(folder, generation_s, training_s, 1)
        rows.append(row(times, "s", taken, "the longer one", max(generation_s, training_s), OVERLAP))
    taken = step_s(folder, 1.0, 1.0, 0)
    rows.append(row("the same in turns (max_policy_lag 0), 1 s each", "s", taken, "the longer one", 1.0, None))
    return rows


def measure(folder: Path | None = None) -> list[dict[str, Any]]:
    """Every row."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        inside = Path(name)
        configure(inside, "scaling")
        return [*costs(inside), *growth(inside), return_of_the_learner(inside), loss_of_actors(inside), *overlap(inside)]


if __name__ == "__main__":
    command("scaling", __doc__, measure, {"folder": {"type": Path}})
