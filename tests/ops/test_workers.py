from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops import guard
from ops.cluster import Cluster
from ops.orders import Built, Ended, Event, Failed, Gone, Homeless, Placed
from ops.workers import Fleet, WorkerSpec
from tests.ops import synthetic
from tests.ops.fakes import STEPS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

RUN = f"workers-{secrets.token_hex(4)}"


def rays_own() -> set[Path]:
    """Folders of sessions where Ray puts them by itself."""
    return set(Path("/tmp/ray").glob("session_2*"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder, sessions = Path(f"/tmp/rba-t-{secrets.token_hex(3)}"), rays_own()
    opened = Cluster(None, 2, folder)
    yield opened
    opened.close()
    assert not folder.exists()
    assert rays_own() <= sessions
    assert guard.clean_up(RUN, [], settle_s=5.0) == [], "nothing of the run may outlive its cluster"


def spec(name: str, script: str = "ok", group: str | None = None) -> WorkerSpec:
    role = name.rpartition("-")[0]
    factory = {"learner": "FakeLearner", "rollout": "FakeRollout"}[role]
    env = {f"RBA_FAKE_{role.upper()}": script, guard.MARKER: RUN}
    return WorkerSpec(name, role, f"tests.ops.fakes:{factory}", cpus=0.3, gpus=0, env=env, group=group)


def until(fleet: Fleet, holds: Callable[[list[Event]], bool], limit_s: float = 30.0) -> list[Event]:
    seen: list[Event] = []
    deadline_s = time.monotonic() + limit_s
    while not holds(seen):
        assert time.monotonic() < deadline_s, f"only saw {seen}"
        seen += fleet.poll(0.2)
    return seen


def built(count: int) -> Callable[[list[Event]], bool]:
    return lambda seen: sum(isinstance(event, Built) for event in seen) == count


def over(seen: list[Event]) -> bool:
    return any(isinstance(event, Ended | Failed) for event in seen)


def start(fleet: Fleet, run_dir: Path, *names: str) -> None:
    fleet.place(60)
    for name in names:
        fleet.build(name, {"run_dir": run_dir})
    until(fleet, built(len(names)))
    for name in names:
        fleet.run(name)


def test_a_worker_answers_while_it_runs_and_ends_when_told(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("learner-0", "forever", group="learner"), spec("learner-1", "forever", group="learner")], tmp_path)
    start(fleet, tmp_path, "learner-0", "learner-1")
    fleet.ask()
    until(fleet, lambda _: set(fleet.statuses) == {"learner-0", "learner-1"})
    fleet.stop("learner-0", "enough")
    assert until(fleet, over) == [Ended("learner-0", synthetic.closing(STEPS))]
    assert fleet.descriptions["learner-0"]["pid"] == fleet.places["learner-0"][1]
    fleet.kill("learner-1")


def test_a_worker_leaves_when_it_is_asked_to(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0"), spec("learner-0", "forever", group="learner")], tmp_path)
    start(fleet, tmp_path, "rollout-0", "learner-0")
    fleet.drain("rollout-0", "a smaller fleet")
    assert until(fleet, over) == [Ended("rollout-0", {"stopped": True})]
    fleet.drain("learner-0", "it can only be stopped")
    assert until(fleet, over) == [Ended("learner-0", synthetic.closing(STEPS))]
    fleet.kill("rollout-0")
    fleet.kill("learner-0")


def test_sigterm_asks_an_actor_to_leave_and_a_second_one_to_stop(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0"), spec("rollout-1", "busy")], tmp_path)
    start(fleet, tmp_path, "rollout-0", "rollout-1")
    output = tmp_path / "logs" / "rollout-1.out"
    for name in ("rollout-0", "rollout-1"):
        os.kill(fleet.places[name][1], signal.SIGTERM)
    assert until(fleet, over) == [Ended("rollout-0", {"stopped": True})]
    until(fleet, lambda _: "told to leave: SIGTERM" in output.read_text())
    assert not over(fleet.poll(0.5))
    os.kill(fleet.places["rollout-1"][1], signal.SIGTERM)
    assert until(fleet, over) == [Ended("rollout-1", {"stopped": True})]
    assert "told to stop: SIGTERM" in output.read_text()
    for name in ("rollout-0", "rollout-1"):
        fleet.kill(name)


def test_an_error_of_a_role_arrives_with_its_words_and_its_traceback_is_kept(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0", "fail")], tmp_path)
    start(fleet, tmp_path, "rollout-0")
    assert until(fleet, over) == [Failed("rollout-0", "RuntimeError: the engine broke")]
    assert "Traceback" in (tmp_path / "logs" / "rollout-0.out").read_text()
    fleet.kill("rollout-0")


def test_a_users_mistake_arrives_as_one(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0", "refuse")], tmp_path)
    fleet.place(60)
    fleet.build("rollout-0", {})
    (event,) = until(fleet, over)
    assert event == Failed("rollout-0", "model.path: the checkpoint is of another family; give one that fits", user_error=True)
    fleet.kill("rollout-0")


def test_a_worker_that_dies_is_quoted_and_its_children_die_with_it(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0", "die")], tmp_path)
    start(fleet, tmp_path, "rollout-0")
    (event,) = until(fleet, over)
    assert isinstance(event, Failed)
    assert "about to die" in event.detail
    assert "rollout-0.out" in event.reason
    assert guard.clean_up(RUN, [], settle_s=10.0) == [], "its child ended without being killed"


def test_a_death_ends_every_call_and_is_told_once(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0")], tmp_path)
    start(fleet, tmp_path, "rollout-0")
    os.kill(fleet.places["rollout-0"][1], signal.SIGSTOP)
    fleet.ask()
    calls = list(fleet._pending)
    os.kill(fleet.places["rollout-0"][1], signal.SIGKILL)
    fleet._ray.wait(calls, num_returns=len(calls), timeout=30)
    (event,) = fleet.poll(5)
    assert isinstance(event, Failed)
    fleet.kill("rollout-0")


def test_one_that_was_killed_comes_back_once_nothing_is_left_of_it(cluster: Cluster, tmp_path: Path) -> None:
    marked = dataclasses.replace(spec("rollout-0", "deaf"), env={**spec("rollout-0", "deaf").env, guard.PROCESS: f"{RUN}/rollout-0"})
    fleet = Fleet([marked], tmp_path)
    start(fleet, tmp_path, "rollout-0")
    first = guard.processes(f"{RUN}/rollout-0", guard.PROCESS)
    assert len(first) == 2, "the role and what it started"
    os.kill(fleet.places["rollout-0"][1], signal.SIGSTOP)  # such a one does not heed Ray
    fleet.kill("rollout-0")
    assert until(fleet, bool) == [Gone("rollout-0")]
    assert guard.processes(f"{RUN}/rollout-0", guard.PROCESS) == []
    fleet.place_again(marked)
    assert until(fleet, bool) == [Placed("rollout-0")]
    fleet.build("rollout-0", {"run_dir": tmp_path})
    assert until(fleet, bool) == [Built("rollout-0")]
    assert fleet.places["rollout-0"][1] not in first
    fleet.kill("rollout-0")


def test_one_whose_machine_is_lost_is_not_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0")], tmp_path)
    fleet.place(60)
    fleet.kill("rollout-0")
    fleet.place_again(dataclasses.replace(spec("rollout-0"), node="203.0.113.9"))
    assert set(until(fleet, lambda seen: len(seen) == 2)) == {Gone("rollout-0"), Homeless("rollout-0", "203.0.113.9")}


def test_a_killed_worker_is_not_heard_of_again(cluster: Cluster, tmp_path: Path) -> None:
    fleet = Fleet([spec("rollout-0", "deaf"), spec("learner-0")], tmp_path)
    start(fleet, tmp_path, "rollout-0", "learner-0")
    fleet.kill("rollout-0")
    assert until(fleet, over) == [Gone("rollout-0"), Ended("learner-0", synthetic.closing(STEPS))]
    fleet.kill("learner-0")
    assert guard.clean_up(RUN, [], settle_s=10.0) == []


def test_a_role_that_has_ended_leaves_no_folder_on_its_machine(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    fleet = Fleet([dataclasses.replace(spec("rollout-0"), cleans=(folder,))], tmp_path)
    start(fleet, tmp_path, "rollout-0")
    assert folder.exists()
    fleet.stop("rollout-0", "enough")
    until(fleet, over)
    assert not folder.exists()
    fleet.kill("rollout-0")
