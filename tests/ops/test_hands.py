from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from configs.machines import FleetSection
from ops import hands as rim
from ops.hands import Hands
from ops.orders import Build, Built, Event, Failed, Kill, Place, Placed, Scale
from ops.resume import Origin
from ops.supervision import Supervision
from ops.workers import WorkerSpec
from tests.ops.test_topology import DESCRIBED, described, wired


class Workers:
    """Stands in for `ops.workers.Fleet`: keeps what it is told."""

    def __init__(self) -> None:
        self.descriptions = {name: told for name, told in DESCRIBED.items() if name != "fetcher-1"}
        self.places = dict.fromkeys([*DESCRIBED, "rollout-0"], ("10.0.0.1", 1))
        self.placed: list[WorkerSpec] = []
        self.built: dict[str, dict[str, Any]] = {}
        self.killed: list[str] = []
        self.drained: list[str] = []
        self.reports: list[Event] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.machines = {"10.0.0.1", "10.0.0.9"}

    def nodes(self) -> set[str]:
        return self.machines

    def adjust(self, name: str, settings: dict[str, Any]) -> None:
        self.told[name] = settings

    def place_again(self, spec: WorkerSpec) -> None:
        self.placed.append(spec)

    def build(self, name: str, kwargs: dict[str, Any]) -> None:
        self.built[name] = kwargs

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def run(self, name: str) -> None:
        pass

    def drain(self, name: str, reason: str) -> None:
        self.drained.append(name)

    def report(self, event: Event) -> None:
        self.reports.append(event)

    def poll(self, timeout_s: float) -> list[Event]:
        events, self.reports = self.reports, []
        return events


class Bench:
    def __init__(self) -> None:
        self.workers, self.lives = Workers(), list[Origin]()
        wiring = wired(["10.0.0.1"], "learner.ranks=2")
        self.supervision = Supervision(wiring.needs(), FleetSection(spare_actors=1))
        self.hands = Hands(self.supervision, self.workers, wiring, self.lives.append)  # type: ignore[arg-type]

    def hear(self, *events: Event) -> None:
        """The supervision hears it, its orders are carried out, and actors hear what has changed."""
        for event in events:
            self.hands.act(self.supervision.handle(event, 0.0))
            self.hands.inform()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_reward_server_comes_back_on_its_machine_and_an_actor_anywhere(bench: Bench) -> None:
    bench.workers.places["reward-0"] = ("10.0.0.9", 1)
    bench.hands.act([Place("reward-0"), Place("rollout-0"), Kill("rollout-0")])
    assert [(spec.id, spec.node) for spec in bench.workers.placed] == [("reward-0", "10.0.0.9"), ("rollout-0", None)]
    assert bench.workers.killed == ["rollout-0"]
    bench.workers.machines = {"10.0.0.1"}
    bench.hands.act([Place("reward-0")])
    assert bench.workers.placed[-1].node is None, "its machine is lost"
    assert "reward-0" not in bench.workers.descriptions, "nor is its port free elsewhere"


def test_an_actor_on_a_new_machine_is_said_with_a_fetcher_that_is_to_be_there(bench: Bench) -> None:
    bench.hands.act([Place("rollout-1")])
    bench.workers.places["rollout-1"] = ("10.0.0.7", 5)
    bench.workers.report(Placed("rollout-1"))
    assert bench.hands.hear(0.0) == [Placed("rollout-1", "fetcher-1")]
    bench.hands.act([Place("fetcher-1")])
    assert [(spec.id, spec.node) for spec in bench.workers.placed] == [("rollout-1", None), ("fetcher-1", "10.0.0.7")]
    bench.workers.report(Placed("rollout-0"))
    assert bench.hands.hear(0.0) == [Placed("rollout-0", "fetcher-0")]


class Search:
    """Stands in for the look through the checkpoints, which takes until a test lets it end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.may_end = threading.Event()
        monkeypatch.setattr(rim, "newest", self.newest)

    def newest(self, run_dir: Path) -> tuple[Path, dict[Path, list[str]]]:
        self.looks += 1
        assert self.may_end.wait(60)
        return Path(f"/runs/demo/checkpoints/step-{4 * self.looks}"), {}

    def end(self, bench: Bench) -> list[Event]:
        """Let it end; what is heard meanwhile."""
        self.may_end.set()
        return until_found(bench)


def until_found(bench: Bench) -> list[Event]:
    heard: list[Event] = []
    while bench.hands._search is not None:
        heard += bench.hands.hear(0.0)
    return heard


def test_all_ranks_of_a_new_life_begin_at_the_same_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(monkeypatch)
    bench.hands.act([Build("learner-0"), Build("learner-1")])
    assert {(kwargs["lineage"], kwargs["checkpoint"]) for kwargs in bench.workers.built.values()} == {(0, None)}
    bench.workers.built.clear()
    bench.hands.act([Build("learner-1", 1)])
    bench.workers.report(Placed("reward-0"))
    assert bench.hands.hear(0.0) == [Placed("reward-0", "")], "the supervisor goes on while checkpoints are read"
    assert not bench.workers.built
    assert search.end(bench) == []
    bench.hands.act([Build("learner-0", 1)])
    assert search.looks == 1
    assert {(kwargs["lineage"], str(kwargs["checkpoint"])) for kwargs in bench.workers.built.values()} == {
        (1, "/runs/demo/checkpoints/step-4")
    }
    assert [(life.lineage, str(life.checkpoint)) for life in bench.lives] == [(1, "/runs/demo/checkpoints/step-4")]


def test_a_learner_that_is_killed_while_checkpoints_are_read_is_not_built(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(monkeypatch)
    bench.hands.act([Build("learner-0", 1), Build("learner-1", 1), Kill("learner-0"), Kill("learner-1")])
    search.end(bench)
    assert (bench.workers.built, bench.lives) == ({}, [])
    bench.hands.act([Build("learner-0", 2), Build("learner-1", 2)])
    search.end(bench)
    assert bench.workers.built.keys() == {"learner-0", "learner-1"}
    assert [(life.lineage, str(life.checkpoint)) for life in bench.lives] == [(1, "/runs/demo/checkpoints/step-8")]


def test_a_disk_that_cannot_be_read_is_an_error_of_the_supervisor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run_dir: Path) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(rim, "newest", broken)
    bench.hands.act([Build("learner-0", 1)])
    with pytest.raises(OSError, match="no such disk"):
        until_found(bench)


def test_what_cannot_be_built_without_one_that_is_lost_is_a_failure(bench: Bench) -> None:
    del bench.workers.descriptions["fetcher-0"]
    bench.hands.act([Build("rollout-0")])
    (event,) = bench.hands.hear(0.0)
    assert isinstance(event, Failed)
    assert "fetcher-0" in event.reason


def test_actors_hear_who_is_a_spare_and_whom_to_ask(bench: Bench) -> None:
    bench.hands.act(bench.supervision.start())
    bench.hear(*map(Built, ("weight_store-0", "fetcher-0", "reward-0", "learner-0", "learner-1", "rollout-0")))
    assert bench.workers.built["rollout-0"] | {"spare": False, "reward_urls": ["http://10.0.0.1:5"]} == bench.workers.built["rollout-0"]
    bench.workers.places["rollout-1"] = ("10.0.0.1", 7)
    bench.hear(Placed("rollout-1", "fetcher-0"))
    assert bench.workers.built["rollout-1"]["spare"]
    bench.hear(Built("rollout-1"), Failed("rollout-0", "killed"))
    assert not bench.workers.told["rollout-1"]["spare"]

    bench.hear(Scale(rewards=2), Placed("reward-1"))
    assert bench.workers.told["rollout-1"]["reward_urls"] == ["http://10.0.0.1:5"], "it cannot be asked yet"
    bench.workers.places["reward-1"] = ("10.0.0.9", 8)
    bench.workers.descriptions["reward-1"] = described("reward", "reward-1", rewards="http://0.0.0.0:6")
    bench.hear(Built("reward-1"))
    assert bench.workers.told["rollout-1"]["reward_urls"] == ["http://10.0.0.1:5", "http://10.0.0.9:6"]
    bench.hear(Scale(rewards=1))
    assert bench.workers.drained == ["reward-1"]
    assert bench.workers.told["rollout-1"]["reward_urls"] == ["http://10.0.0.1:5"]
    bench.workers.told.clear()
    bench.hands.inform()
    assert set(bench.workers.told) == {"rollout-1"}, "what did not arrive is told again"
