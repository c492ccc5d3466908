"""The right alert fires for a fault, and ends with it: real processes, a real Prometheus, short times."""

from __future__ import annotations

import resource
from pathlib import Path

from learner.journal import JOURNAL
from tests.faults.drill import Drill, resource_limit
from tests.faults.test_disk import ENOUGH_BYTES
from tests.faults.test_rewards import Handler, Server
from tests.faults.watching import Watched

UNHEARD = {"TargetDown"}
"""Prometheus hears up to 5 s later that a process is gone and no target any more, which is longer than these alerts wait."""


def test_a_killed_fleet(drill: Drill, tmp_path: Path) -> None:
    drill.begin()
    with Watched(drill, tmp_path) as watched:
        watched.until_it_is_watched()
        assert not watched.prometheus.ever_fired()
        drill.kill("rollout-0")
        assert watched.until_fires("ActorCountLow") <= {"ActorCountLow", *UNHEARD}, "the other one goes on"
        drill.kill("rollout-1")
        fired = watched.until_fires("ActorCountLow", "NoPairsAcked")
        assert fired <= {"ActorCountLow", "NoPairsAcked", "LearnerStalled", *UNHEARD}
        for index in (0, 1):
            drill.start_actor(index)
        watched.until_quiet()
    drill.finish()


def test_a_hung_learner(drill: Drill, tmp_path: Path) -> None:
    """Its step does not come back; its exporter still tells of the last one."""
    drill.begin()
    with Watched(drill, tmp_path) as watched:
        watched.until_it_is_watched()
        drill.ask("learner-0", do="set step", seconds=3600)
        fired = watched.until_fires("LearnerStalled")
        assert fired <= {"LearnerStalled", "NoPairsAcked"}, "neither the actors nor the disk are at fault"
        assert watched.prometheus.targets()["learner-0"] == "up"
        drill.kill("learner-0")
        drill.start_learner()
        drill.until(drill.readiness("learner-0"), "its return")
        watched.until_quiet()
        drill.order("learner-0", do="hang", seconds=3600)  # with Python's lock held: nothing of it answers any more
        watched.until_fires("LearnerStalled", "NoPairsAcked", "TargetDown")
        drill.kill("learner-0")


def test_a_dead_reward_server(drill: Drill, tmp_path: Path) -> None:
    drill.config["strategy"] = "group"
    drill.config["rewards"] = {"scorer": "bleu", "timeout_s": 0.3, "attempts": 2}
    with Server() as server:
        drill.rewards = [f"http://127.0.0.1:{server.port}"]
        drill.begin()
        with Watched(drill, tmp_path) as watched:
            watched.until_it_is_watched()
            assert not watched.prometheus.ever_fired()
            server.close()
            Handler.mood = "away"
            fired = watched.until_fires("RewardServerErrors")
            assert fired <= {"RewardServerErrors", "LearnerStalled"}, "actors go on, without scores"
            Handler.mood = "well"
            server.open()
            watched.until_quiet()
        drill.finish()


def test_a_full_disk(drill: Drill, tmp_path: Path) -> None:
    drill.begin()
    journal = drill.folder / "run" / JOURNAL

    def size() -> int:
        return max(path.stat().st_size for path in journal.glob("*.journal"))

    drill.until(lambda: size() > ENOUGH_BYTES, "a journal that is larger than all other files")
    with Watched(drill, tmp_path) as watched:
        watched.until_it_is_watched()
        assert not watched.prometheus.ever_fired()
        with resource_limit(drill.pids["learner-0"], resource.RLIMIT_FSIZE, size()):
            fired = watched.until_fires("JournalDiskLow", "NoPairsAcked")
            assert fired <= {"JournalDiskLow", "NoPairsAcked", "LearnerStalled", "CheckpointOld"}
        watched.until_quiet()
    drill.finish()
