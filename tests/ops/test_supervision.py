from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from ops import supervision
from ops.supervision import (
    Action,
    Build,
    Built,
    Ended,
    Event,
    Failed,
    Finish,
    Kill,
    Phase,
    Run,
    State,
    Stop,
    StopRequested,
    Supervision,
    Tick,
)

PROCESSES = {
    "weight_store-0": ("weight_store", []),
    "fetcher-0": ("fetcher", ["weight_store-0"]),
    "reward-0": ("reward", []),
    "learner-0": ("learner", []),
    "learner-1": ("learner", []),
    "rollout-0": ("rollout", ["fetcher-0", "reward-0", "learner-0"]),
}


def started() -> Supervision:
    """All processes run."""
    machine = Supervision(PROCESSES)
    todo = machine.start()
    while todo:
        todo = [new for action in todo if isinstance(action, Build) for new in machine.handle(Built(action.id), 0.0)]
    assert machine.state is State.RUNNING
    return machine


def feed(machine: Supervision, *events: Event, now_s: float = 1.0) -> list[Action]:
    return [action for event in events for action in machine.handle(event, now_s)]


def ids(actions: Iterable[Action], kind: type) -> set[str]:
    return {action.id for action in actions if isinstance(action, kind) and not isinstance(action, Finish)}


def end_the_rest(machine: Supervision, actions: list[Action]) -> Finish:
    """Whatever is told to stop does; the way it finishes."""
    while not any(isinstance(action, Finish) for action in actions):
        stopping = ids(actions, Stop)
        assert stopping, f"nothing moves: {machine.phases}"
        actions = feed(machine, *(Ended(name) for name in sorted(stopping)))
    return next(action for action in actions if isinstance(action, Finish))


def test_processes_are_built_when_what_they_need_is() -> None:
    machine = Supervision(PROCESSES)
    assert ids(machine.start(), Build) == {"weight_store-0", "reward-0", "learner-0", "learner-1"}
    assert feed(machine, Built("weight_store-0")) == [Run("weight_store-0"), Build("fetcher-0")]
    assert feed(machine, Built("learner-0"), Built("reward-0")) == [Run("learner-0"), Run("reward-0")]
    assert feed(machine, Built("fetcher-0")) == [Run("fetcher-0"), Build("rollout-0")]
    feed(machine, Built("learner-1"))
    before = machine.state
    feed(machine, Built("rollout-0"))
    assert (before, machine.state) == (State.STARTING, State.RUNNING)


def test_the_run_completes_when_every_learner_rank_has_ended() -> None:
    machine = started()
    assert feed(machine, Ended("learner-0", {"step": 3})) == []
    actions = feed(machine, Ended("learner-1"))
    assert ids(actions, Stop) == {"rollout-0"}, "those who ask stop before those who answer"
    actions = feed(machine, Ended("rollout-0"))
    assert ids(actions, Stop) == {"reward-0", "fetcher-0", "weight_store-0"}
    assert end_the_rest(machine, actions).state is State.COMPLETED
    assert machine.figures["learner-0"] == {"step": 3}


def test_an_actor_that_said_goodbye_first_is_no_failure() -> None:
    machine = started()
    assert feed(machine, Ended("rollout-0")) == []
    assert end_the_rest(machine, feed(machine, Ended("learner-0"), Ended("learner-1"))).state is State.COMPLETED


def test_a_learner_without_actors_fails_in_the_end() -> None:
    machine = started()
    feed(machine, Ended("rollout-0"), now_s=10.0)
    assert feed(machine, Tick(), now_s=60.0) == []
    actions = feed(machine, Tick(), now_s=71.0)
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    assert end_the_rest(machine, actions).state is State.FAILED


def test_a_failed_actor_fails_the_run_and_the_learner_may_write_its_checkpoint() -> None:
    machine = started()
    actions = feed(machine, Failed("rollout-0", "out of memory"))
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    finish = end_the_rest(machine, actions)
    assert (finish.state, finish.reason) == (State.FAILED, "rollout-0: out of memory")


def test_a_failed_rank_takes_the_other_ranks_with_it() -> None:
    machine = started()
    actions = feed(machine, Failed("learner-0", "no memory"))
    assert ids(actions, Kill) == {"learner-1"}, "it waits in a collective and cannot drain"
    assert end_the_rest(machine, actions).state is State.FAILED


def test_a_server_that_ends_by_itself_is_a_failure() -> None:
    machine = started()
    finish = end_the_rest(machine, feed(machine, Ended("reward-0")))
    assert finish.state is State.FAILED
    assert "reward-0" in finish.reason


def test_a_users_mistake_in_a_constructor_is_told_as_one() -> None:
    machine = Supervision(PROCESSES)
    machine.start()
    finish = end_the_rest(machine, feed(machine, Failed("reward-0", "no such model", user_error=True)))
    assert finish.user_error
    assert not any(phase in {Phase.BUILDING, Phase.RUNNING} for phase in machine.phases.values())


def test_a_stop_drains_the_learner_first_and_leaves_a_stopped_run() -> None:
    machine = started()
    actions = feed(machine, StopRequested("SIGTERM"))
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    assert end_the_rest(machine, actions) == Finish(State.STOPPED, "SIGTERM")


def test_a_second_stop_kills_everything_at_once() -> None:
    machine = started()
    feed(machine, StopRequested("SIGINT"))
    actions = feed(machine, StopRequested("SIGINT"))
    assert ids(actions, Kill) == set(PROCESSES)
    assert isinstance(actions[-1], Finish)
    assert actions[-1].state is State.STOPPED


def test_a_stop_during_the_start_kills_what_is_being_built_and_builds_no_more() -> None:
    machine = Supervision(PROCESSES)
    machine.start()
    feed(machine, Built("weight_store-0"))
    actions = feed(machine, StopRequested("SIGINT"))
    assert ids(actions, Kill) >= {"learner-0", "learner-1"}
    assert not ids(feed(machine, Built("fetcher-0")), Build)


def test_who_does_not_stop_in_time_is_killed() -> None:
    machine = started()
    feed(machine, StopRequested("SIGTERM"), now_s=100.0)
    learner_s, rollout_s, server_s = (100.0 + limit_s for limit_s in supervision.SIGNAL_LIMITS_S)
    assert feed(machine, Tick(), now_s=learner_s - 0.1) == []
    actions = feed(machine, Tick(), now_s=learner_s)
    assert ids(actions, Kill) == {"learner-0", "learner-1"}
    assert ids(actions, Stop) == {"rollout-0"}
    assert ids(feed(machine, Tick(), now_s=rollout_s), Kill) == {"rollout-0"}
    assert isinstance(feed(machine, Tick(), now_s=server_s)[-1], Finish)
    assert server_s <= 117.0, "with Ray's own end this must stay below twenty seconds"


def test_a_drain_gives_a_large_model_time_for_its_checkpoint() -> None:
    machine = started()
    feed(machine, StopRequested("rba stop", hurried=False), now_s=0.0)
    assert feed(machine, Tick(), now_s=500.0) == []
    actions = feed(machine, Ended("learner-0"), Ended("learner-1"), now_s=550.0)
    assert ids(actions, Stop) == {"rollout-0"}
    assert feed(machine, Tick(), now_s=570.0) == []
    assert ids(feed(machine, Tick(), now_s=580.0), Kill) == {"rollout-0"}


def test_the_last_words_of_a_process_are_told() -> None:
    machine = started()
    feed(machine, Failed("rollout-0", "its process died", detail="  terminate called"))
    assert machine.notes == ["rollout-0 said last:\n  terminate called"]
    assert machine.reason == "rollout-0: its process died"


def test_trouble_while_stopping_is_noted_and_changes_nothing() -> None:
    machine = started()
    actions = feed(machine, Ended("learner-0"), Ended("learner-1"), Failed("rollout-0", "lost its nerve"))
    assert end_the_rest(machine, actions).state is State.COMPLETED
    assert "lost its nerve" in machine.notes[0]


def test_a_learner_that_fails_while_stopping_fails_the_run() -> None:
    machine = started()
    feed(machine, StopRequested("SIGTERM"))
    finish = end_the_rest(machine, feed(machine, Failed("learner-0", "disk full")))
    assert finish.state is State.FAILED
    assert "disk full" in finish.reason


EVENTS = st.one_of(
    st.sampled_from(sorted(PROCESSES)).map(Ended),
    st.sampled_from(sorted(PROCESSES)).map(lambda name: Failed(name, "boom")),
    st.sampled_from(sorted(PROCESSES)).map(Built),
    st.just(StopRequested("SIGTERM")),
    st.just(Tick()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=30))
def test_whatever_happens_it_finishes_once_and_leaves_nothing_alive(history: list[tuple[Event, float]]) -> None:
    machine = Supervision(PROCESSES)
    built: set[str] = set()
    alive: set[str] = set()
    finishes = 0
    now_s = 0.0

    def carry_out(actions: list[Action]) -> None:
        nonlocal finishes
        for action in actions:
            match action:
                case Build(name):
                    assert set(PROCESSES[name][1]) <= built
                    alive.add(name)
                case Kill(name):
                    alive.discard(name)
                case Finish():
                    finishes += 1

    carry_out(machine.start())
    for event, pause_s in history:
        now_s += pause_s
        if isinstance(event, Built | Ended | Failed):
            if event.id not in alive or (isinstance(event, Built) and event.id in built):
                continue  # Ray reports nothing of a process that is not there
            if isinstance(event, Ended) and event.id not in built:
                continue
            if isinstance(event, Built):
                built.add(event.id)
            else:
                alive.discard(event.id)
        carry_out(machine.handle(event, now_s))
    for _ in range(2):
        carry_out(machine.handle(StopRequested("SIGKILL is next"), now_s))
    assert finishes == 1
    assert not alive
