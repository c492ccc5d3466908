"""Hours of kills at random moments. Not part of the normal run: ``make soak``."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.drill import Drill
from tests.faults.record import monotonic_s

SOAK_S = float(os.environ.get("RBA_SOAK_S", "1800"))
MEAN_S = 20.0
"""Between two kills, on average."""
SPARE_FDS, SPARE_THREADS, SPARE_BYTES = 16, 4, 96 << 20
SEED = int(os.environ.get("RBA_SOAK_SEED", "0"))


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 600)
def test_a_job_survives_kills_at_random_moments(drill: Drill) -> None:
    """Whatever dies comes back; what lives on does not grow; at the end the whole history is right."""
    chance = random.Random(SEED)
    drill.config["learner"]["checkpoint_every"] = 200
    drill.begin(actors=3)
    spared = drill.process("fetcher-0")
    base = {"fds": spared.num_fds(), "threads": spared.num_threads(), "bytes": spared.memory_info().rss}
    end_s = monotonic_s() + SOAK_S
    while monotonic_s() < end_s:
        next_s = min(end_s, monotonic_s() + chance.expovariate(1 / MEAN_S))
        drill.until(lambda next_s=next_s: monotonic_s() >= next_s, "the next kill", SOAK_S)  # type: ignore[misc]
        victim = chance.choice(["learner-0", "rollout-0", "rollout-1", "rollout-2", "weight_store-0"])
        drill.kill(victim)
        if victim == "learner-0":
            drill.start_learner()
        elif victim == "weight_store-0":
            drill.start_again(victim)
        else:
            drill.start_actor(int(victim[-1]))
        drill.recovery_s(monotonic_s())
        drill.goes_on()
    assert spared.num_fds() <= base["fds"] + SPARE_FDS
    assert spared.num_threads() <= base["threads"] + SPARE_THREADS
    assert spared.memory_info().rss <= base["bytes"] + SPARE_BYTES
    drill.finish()
