"""Whatever happens to the processes of a run, in whatever order, the supervision keeps its promises."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from configs.machines import FleetSection
from ops.orders import (
    Action,
    Build,
    Built,
    Drain,
    Ended,
    Event,
    Failed,
    Finish,
    Gone,
    Homeless,
    Hung,
    Kill,
    Phase,
    Place,
    Placed,
    Run,
    Scale,
    State,
    Stop,
    StopRequested,
    Tick,
)
from ops.processes import RETIRED
from ops.supervision import Supervision

NEEDS = ["fetcher-0", "reward-0", "reward-1", "learner-0"]
PROCESSES: dict[str, tuple[str, list[str]]] = {
    "weight_store-0": ("weight_store", []),
    "fetcher-0": ("fetcher", ["weight_store-0"]),
    "reward-0": ("reward", []),
    "reward-1": ("reward", []),
    "learner-0": ("learner", []),
    "learner-1": ("learner", []),
    "rollout-0": ("rollout", NEEDS),
    "rollout-1": ("rollout", NEEDS),
}
SECTION = FleetSection(restarts=2, restart_window_s=200.0, learner_restarts=1, spare_actors=1)


class World:
    """Stands in for Ray: does what it is told, and knows what is alive."""

    def __init__(self) -> None:
        self.machine = Supervision(PROCESSES, SECTION)
        self.now_s = 0.0
        self.left = set(PROCESSES)
        """Processes of which something is left, if only a dying engine."""
        self.stage: dict[str, str] = dict.fromkeys(PROCESSES, "placed")
        """What each living process does: placing | placed | building | built | running."""
        self.described: set[str] = set()
        self.granted: defaultdict[str, list[float]] = defaultdict(list)
        """When each was granted a restart."""
        self.finishes: list[Finish] = []
        self.carry_out(self.machine.start())

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.finishes, f"{action} after the end"
            assert not (isinstance(action, Place | Build) and self.machine.state is State.STOPPING), f"{action} while the run ends"
            match action:
                case Place(name):
                    assert name not in self.left, f"two of {name}"
                    self.left.add(name)
                    self.stage[name] = "placing"
                case Build(name):
                    assert self.stage[name] == "placed"
                    known = self.described | {other for other, phase in self.machine.phases.items() if phase in RETIRED}
                    assert set(PROCESSES.get(name, ("", [] if name.startswith("reward") else NEEDS))[1]) <= known
                    self.stage[name] = "building"
                case Run(name):
                    assert self.stage[name] == "built"
                    self.stage[name] = "running"
                case Drain(name) | Stop(name):
                    assert self.stage[name] == "running"
                case Kill(name):
                    self.stage.pop(name, None)
                case Finish():
                    self.finishes.append(action)

    def hear(self, event: Event) -> None:
        """One event, if it can happen now."""
        name: str = getattr(event, "id", "")
        match event:
            case Placed():
                possible, after = self.stage.get(name) == "placing", "placed"
            case Built():
                possible, after = self.stage.get(name) == "building", "built"
                if possible:
                    self.described.add(name)
            case Ended():
                possible, after = self.stage.get(name) == "running", ""
            case Hung():
                if name in self.machine.phases:  # the process itself goes on
                    self.tell(event)
                return
            case Homeless():
                possible, after = self.stage.get(name) == "placing", ""
                if possible:
                    self.left.discard(name)
            case Failed():
                possible, after = name in self.stage, ""
            case Gone():
                possible, after = name in self.left and name not in self.stage, ""
                if possible:
                    self.left.discard(name)
            case _:
                possible, after = True, ""
        if not possible:
            return
        if after:
            self.stage[name] = after
        elif name:
            self.stage.pop(name, None)
        self.tell(event)

    def tell(self, event: Event) -> None:
        before = dict(self.machine.restarted)
        self.carry_out(self.machine.handle(event, self.now_s))
        for other, count in self.machine.restarted.items():
            if count > before.get(other, 0):
                self.granted[other].append(self.now_s)
        self.check_spares()

    def check_spares(self) -> None:
        """Nobody rests while an actor's work lies idle."""
        machine = self.machine
        assert len(machine.spares) <= SECTION.spare_actors
        assert machine.present_actors <= machine.wanted["rollout"] or machine.state is State.STOPPING
        if machine.state is State.RUNNING and any(machine.phases[name] is Phase.RUNNING for name in machine.spares):
            actors = {name for name, phase in machine.phases.items() if name.startswith("rollout")} - set(machine.spares)
            assert not [name for name in actors if machine.phases[name] in {Phase.PLACING, Phase.BUILDING, Phase.RESTARTING}]


NAMES = st.sampled_from([*sorted(PROCESSES), "rollout-2", "rollout-3", "rollout-4", "reward-2", "fetcher-1"])
EVENTS: Any = st.one_of(
    st.builds(Placed, NAMES.filter(lambda name: name.startswith("rollout")), st.sampled_from(["fetcher-0", "fetcher-1"])),
    NAMES.map(Placed),
    NAMES.map(Built),
    NAMES.map(Built),
    NAMES.map(Ended),
    NAMES.map(lambda name: Failed(name, "boom")),
    NAMES.map(Gone),
    st.builds(Homeless, NAMES, st.just("10.0.0.2")),
    NAMES.map(lambda name: Hung(name, "it does nothing")),
    NAMES.map(lambda name: Failed(name, "wrong", user_error=True)),
    st.builds(StopRequested, st.just("SIGTERM"), st.booleans()),
    st.integers(1, 4).map(Scale),
    st.integers(1, 3).map(lambda servers: Scale(rewards=servers)),
    st.just(Tick()),
)


def progress(world: World) -> None:
    """Everything that can go well does."""
    for name in [*world.left, *world.stage]:
        for event in (Placed(name), Built(name), Gone(name)):
            world.hear(event)
    world.hear(Tick())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.floats(0, 40), st.booleans()), max_size=60))
def test_promises_hold_under_any_interleaving(history: list[tuple[Event, float, bool]]) -> None:
    world = World()
    for event, pause_s, well in history:
        world.now_s += pause_s
        if well:
            progress(world)
        world.hear(event)
    for name, times in world.granted.items():
        budget, window_s = (1, float("inf")) if name.startswith("learner") else (2, 200.0)
        assert all(sum(since_s <= at_s < since_s + window_s for at_s in times) <= budget for since_s in times), f"{name} at {times}"

    world.hear(StopRequested("enough"))
    for _ in range(200):
        if world.finishes:
            break
        world.now_s += 100.0  # nobody heeds a stop
        world.hear(Tick())
    assert len(world.finishes) == 1
    assert not world.stage, "nothing is alive after the end"
