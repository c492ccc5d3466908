"""Random walks over the model, each a function of its seed.

``python -m tests.simulation.walker --schedules 100000 --seed 0`` says how many it does in a second and which seed fails;
``python -m tests.simulation.walker --trace SEED`` tells what happens in one of them.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context

from tests.simulation.plan import Plan
from tests.simulation.rules import RULES
from tests.simulation.world import World

TABLE = [rule for rule, weight in RULES.items() for _ in range(weight)]
LEAST_EVENTS, MORE_EVENTS = 30, 20
COLLECT_EVERY = 1000
PORTION = 1000
"""Schedules that a process walks before it takes others."""


@dataclass
class Tally:
    """What a number of walks came to."""

    schedules: int = 0
    events: int = 0
    rounds: int = 0
    """At the end, in which everything is well."""
    crashes: int = 0
    with_crash: int = 0
    lives: int = 0
    from_checkpoint: int = 0
    """Lives that began at one."""
    seconds: float = 0.0

    def __str__(self) -> str:
        each = self.events / self.schedules
        return (
            f"{self.schedules} schedules in {self.seconds:.1f} s, {self.schedules / self.seconds:.0f} schedules/s; "
            f"{each:.1f} events and {self.rounds / self.schedules:.1f} rounds to the end each, {self.with_crash / self.schedules:.0%} with "
            f"a crash of the learner, "
            f"{self.lives / self.schedules:.2f} lives each, {self.from_checkpoint / self.lives:.0%} from a checkpoint"
        )


class FailedWalkError(AssertionError):
    """A schedule breaks a promise."""


def walk(seed: int, tally: Tally, *, tell: bool = False) -> None:
    """One schedule. Raises what broke."""
    rng = random.Random(seed)
    world = World(Plan.of(rng.getrandbits(40)))
    random_number, check, table, size = rng.random, world.watch.check, TABLE, len(TABLE)
    events, wanted = 0, LEAST_EVENTS + int(random_number() * MORE_EVENTS)
    if tell:
        print(world.plan)
    for _ in range(4 * wanted):
        rule, number = table[int(random_number() * size)], int(random_number() * 65536)
        if rule(world, number):
            events += 1
            if tell:
                print(f"{rule.__name__:12} {number:5}  {world.describe()}")
            check()
            if events == wanted or world.ended:
                break
    crashes = world.crashes
    rounds = world.finish()
    tally.schedules += 1
    tally.events += events
    tally.rounds += rounds
    tally.crashes += crashes
    tally.with_crash += crashes > 0
    tally.lives += world.lineage + 1
    tally.from_checkpoint += world.from_checkpoint
    world.close()


def walk_many(first: int, count: int) -> Tally:
    """Schedules of the seeds from `first` on. Raises `FailedWalkError` for the first one that breaks a promise."""
    tally, started, collecting = Tally(), time.perf_counter(), gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        for seed in range(first, first + count):
            try:
                walk(seed, tally)
            except Exception as error:
                raise FailedWalkError(f"seed {seed}: {type(error).__name__}: {error}") from error
            if seed % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
        tally.seconds = time.perf_counter() - started
    return tally


def walk_on_all_cores(first: int, count: int) -> Tally:
    """As `walk_many`, shared out over the machine's cores."""
    started, firsts = time.perf_counter(), range(first, first + count, PORTION)
    counts = [min(PORTION, first + count - each) for each in firsts]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as cores:
        tallies = list(cores.map(walk_many, firsts, counts))
    sums = {field.name: sum(getattr(tally, field.name) for tally in tallies) for field in fields(Tally)}
    return Tally(**{**sums, "seconds": time.perf_counter() - started})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    parser.add_argument("--trace", type=int, metavar="SEED", help="tell what happens in this schedule")
    given = parser.parse_args()
    if given.trace is not None:
        tally = Tally()
        walk(given.trace, tally, tell=True)
        print("nothing is broken")
        return
    try:
        print(walk_on_all_cores(given.seed, given.schedules))
    except FailedWalkError as error:
        sys.exit(f"{error}\nsee it with: python -m tests.simulation.walker --trace {str(error).split()[1].rstrip(':')}")


if __name__ == "__main__":
    main()
