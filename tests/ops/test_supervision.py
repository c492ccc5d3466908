from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from configs.machines import FleetSection
from ops import ending
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
from ops.supervision import Supervision

PROCESSES = {
    "weight_store-0": ("weight_store", []),
    "fetcher-0": ("fetcher", ["weight_store-0"]),
    "reward-0": ("reward", []),
    "learner-0": ("learner", []),
    "learner-1": ("learner", []),
    "rollout-0": ("rollout", ["fetcher-0", "reward-0", "learner-0"]),
}


def two_of_each() -> dict[str, tuple[str, list[str]]]:
    """Two rollout actors, two reward servers."""
    needs = ["fetcher-0", "reward-0", "reward-1", "learner-0"]
    return {**PROCESSES, "reward-1": ("reward", []), "rollout-0": ("rollout", needs), "rollout-1": ("rollout", needs)}


def started(
    processes: Mapping[str, tuple[str, list[str]]] = PROCESSES, section: FleetSection | None = None, optional: Iterable[str] = ()
) -> Supervision:
    """All processes run."""
    machine = Supervision(processes, section, optional)
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
        stopping = ids(actions, Stop) | ids(actions, Drain)
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
    assert feed(machine, Ended("rollout-0")) == [Kill("rollout-0")]
    assert end_the_rest(machine, feed(machine, Ended("learner-0"), Ended("learner-1"))).state is State.COMPLETED


def test_an_actor_that_a_signal_made_leave_has_its_place_and_its_number_taken_again() -> None:
    machine = started(two_of_each())
    assert feed(machine, Ended("rollout-1")) == [Kill("rollout-1")]
    assert machine.present_actors == 1
    assert feed(machine, Gone("rollout-1"), Scale(2)) == [Place("rollout-1")]


def test_a_learner_without_actors_fails_in_the_end() -> None:
    machine = started()
    feed(machine, Ended("rollout-0"), now_s=10.0)
    assert feed(machine, Tick(), now_s=60.0) == []
    actions = feed(machine, Tick(), now_s=71.0)
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    assert end_the_rest(machine, actions).state is State.FAILED


def test_a_failed_actor_comes_back_under_its_own_id_once_nothing_is_left_of_it() -> None:
    machine = started()
    assert feed(machine, Failed("rollout-0", "out of memory")) == [Kill("rollout-0")]
    assert machine.phases["rollout-0"] is Phase.RESTARTING
    assert feed(machine, Tick(), now_s=50.0) == [], "its engine may still hold the memory"
    assert feed(machine, Failed("reward-0", "boom"), Gone("reward-0"), Tick(), now_s=50.4) == [Kill("reward-0")], "it pauses first"
    assert feed(machine, Gone("rollout-0"), Tick(), now_s=50.4) == [Place("rollout-0")]
    assert feed(machine, Tick(), now_s=51.4) == [Place("reward-0")]
    feed(machine, Placed("reward-0"), Built("reward-0"), now_s=51.4)
    assert feed(machine, Placed("rollout-0"), now_s=51.4) == [Build("rollout-0", attempt=1)]
    assert feed(machine, Built("rollout-0"), now_s=52.0) == [Run("rollout-0")]
    assert machine.state is State.RUNNING
    assert machine.fleet == {"restarts": {"rollout-0": 1, "reward-0": 1}, "quarantined": []}
    assert "out of memory" in machine.notes[0]


def fail_and_return(machine: Supervision, name: str, now_s: float) -> list[Action]:
    """One failure, and the way back as far as it goes; what was ordered."""
    actions = feed(machine, Failed(name, "boom"), Gone(name), now_s=now_s)
    actions += feed(machine, Tick(), now_s=now_s + 60)
    if Place(name) in actions:
        actions += feed(machine, Placed(name), Built(name), now_s=now_s + 60)
    return actions


@pytest.mark.parametrize("name", ["rollout-0", "reward-0"])
def test_one_that_fails_too_often_is_quarantined_and_the_others_go_on(name: str) -> None:
    machine = started(two_of_each(), FleetSection(restarts=2))
    for failure in range(2):
        assert Place(name) in fail_and_return(machine, name, 100.0 * failure)
    assert fail_and_return(machine, name, 200.0) == [Kill(name)]
    assert machine.phases[name] is Phase.QUARANTINED
    assert "quarantined" in machine.notes[-1]
    assert machine.state is State.RUNNING
    other = name.replace("0", "1")
    for failure in range(2):
        fail_and_return(machine, other, 300.0 + 100 * failure)
    finish = end_the_rest(machine, feed(machine, Failed(other, "boom"), now_s=500.0))
    assert (finish.state, finish.reason) == (State.FAILED, f"{other} failed too often: boom")


def test_the_budget_is_one_of_a_window() -> None:
    machine = started(section=FleetSection(restarts=1, restart_window_s=1000.0))
    for failure in range(5):
        assert Place("reward-0") in fail_and_return(machine, "reward-0", 1001.0 * failure)
    fail_and_return(machine, "reward-0", 4500.0)
    assert machine.phases["reward-0"] is Phase.QUARANTINED


def test_a_run_that_needs_no_rewards_goes_on_without_a_reward_server() -> None:
    machine = started(section=FleetSection(restarts=0), optional=["reward"])
    assert feed(machine, Failed("reward-0", "boom")) == [Kill("reward-0")]
    assert machine.state is State.RUNNING


@pytest.mark.parametrize("name", ["weight_store-0", "fetcher-0"])
def test_weights_come_back_or_the_run_ends(name: str) -> None:
    machine = started(section=FleetSection(restarts=1))
    assert Place(name) in fail_and_return(machine, name, 0.0)
    fail_and_return(machine, name, 100.0)
    assert machine.state is State.STOPPING
    assert name in machine.reason


def test_who_waits_for_a_server_that_is_given_up_is_built_without_it() -> None:
    machine = Supervision(two_of_each(), FleetSection(restarts=0))
    machine.start()
    feed(machine, *(Built(name) for name in ("weight_store-0", "fetcher-0", "learner-0", "learner-1", "reward-0")))
    assert Build("rollout-0") in feed(machine, Failed("reward-1", "no memory"))
    feed(machine, Built("rollout-0"), Built("rollout-1"))
    assert machine.state is State.RUNNING


def test_the_ranks_come_back_together_and_the_actors_stay() -> None:
    machine = started()
    assert feed(machine, Failed("learner-1", "no memory")) == [Kill("learner-0"), Kill("learner-1")]
    assert feed(machine, Failed("learner-0", "its peer is gone")) == []
    assert feed(machine, Gone("learner-1"), Tick(), now_s=50.0) == [], "the other rank is still there"
    assert feed(machine, Gone("learner-0"), Tick(), now_s=50.0) == [Place("learner-0"), Place("learner-1")]
    assert feed(machine, Placed("learner-1"), Placed("learner-0"), now_s=51.0) == [Build("learner-1", 1), Build("learner-0", 1)]
    feed(machine, Built("learner-1"), Built("learner-0"), now_s=52.0)
    assert machine.phases["rollout-0"] is Phase.RUNNING
    assert end_the_rest(machine, feed(machine, Ended("learner-0"), Ended("learner-1"))).state is State.COMPLETED


def test_a_learner_that_made_the_users_mistake_or_was_done_does_not_come_back() -> None:
    for event in (Failed("learner-0", "no such model", user_error=True), Ended("learner-0")):
        machine = started()
        actions = feed(machine, event, Failed("learner-1", "boom"))
        assert Kill("learner-1") in actions or ids(actions, Stop)
        assert machine.state is State.STOPPING


def test_a_stop_is_not_held_up_by_one_that_was_to_come_back() -> None:
    machine = started()
    feed(machine, Failed("learner-0", "boom"), Failed("reward-0", "boom"))
    finish = end_the_rest(machine, feed(machine, StopRequested("SIGTERM")))
    assert finish == Finish(State.STOPPED, "SIGTERM")


def test_a_failed_rank_takes_the_other_ranks_with_it() -> None:
    machine = started(section=FleetSection(learner_restarts=0))
    actions = feed(machine, Failed("learner-0", "no memory"))
    assert ids(actions, Kill) == {"learner-1"}, "it waits in a collective and cannot drain"
    assert end_the_rest(machine, actions).state is State.FAILED


def test_a_server_that_ends_by_itself_comes_back() -> None:
    machine = started()
    assert feed(machine, Ended("reward-0")) == [Kill("reward-0")]
    assert "still needed" in machine.notes[0]


def test_actors_join_while_the_run_goes_on() -> None:
    machine = started()
    assert feed(machine, Scale(3)) == [Place("rollout-1"), Place("rollout-2")]
    assert (machine.wanted["rollout"], machine.state) == (3, State.RUNNING)
    assert feed(machine, Placed("rollout-2", "fetcher-0")) == [Build("rollout-2")]
    assert feed(machine, Built("rollout-2")) == [Run("rollout-2")]
    assert feed(machine, Scale(3)) == [], "one is still on its way"


def test_an_actor_on_a_new_machine_waits_for_a_fetcher_there() -> None:
    machine = started()
    feed(machine, Scale(2))
    assert feed(machine, Placed("rollout-1", "fetcher-1")) == [Place("fetcher-1")]
    assert feed(machine, Placed("fetcher-1")) == [Build("fetcher-1")]
    assert feed(machine, Built("fetcher-1")) == [Run("fetcher-1"), Build("rollout-1")]


def test_a_fetcher_leaves_with_its_machine_and_comes_back_with_it() -> None:
    machine = started()
    feed(machine, Scale(2), Placed("rollout-1", "fetcher-1"), Placed("fetcher-1"), Built("fetcher-1"), Built("rollout-1"))
    feed(machine, Failed("rollout-1", "killed"), Failed("fetcher-1", "killed"), Gone("fetcher-1"), Gone("rollout-1"))
    assert ids(feed(machine, Tick(), now_s=5.0), Place) == {"rollout-1", "fetcher-1"}
    assert feed(machine, Homeless("fetcher-1", "10.0.0.2")) == []
    assert (machine.phases["fetcher-1"], machine.phases["rollout-1"]) == (Phase.ENDED, Phase.PLACING), "Ray looks for another machine"
    assert feed(machine, Placed("rollout-1", "fetcher-1")) == [Place("fetcher-1")], "it is back"
    assert feed(machine, Placed("fetcher-1"), Built("fetcher-1")) == [Build("fetcher-1"), Run("fetcher-1"), Build("rollout-1", attempt=1)]


def test_a_server_without_its_machine_has_failed() -> None:
    machine = started(section=FleetSection(restarts=1))
    feed(machine, Failed("reward-0", "killed"), Gone("reward-0"))
    feed(machine, Tick(), Homeless("reward-0", "10.0.0.2"), now_s=5.0)
    assert machine.phases["reward-0"] is Phase.QUARANTINED


def test_those_leave_first_that_do_least_and_the_rest_drains() -> None:
    machine = started(two_of_each())
    feed(machine, Scale(4))
    feed(machine, Placed("rollout-2"), Built("rollout-2"))
    assert feed(machine, Scale(2)) == [Kill("rollout-3"), Drain("rollout-2", "the fleet is made smaller")]
    assert feed(machine, Ended("rollout-2", {"idle": 0.5})) == [Kill("rollout-2")], "Ray may give its place to others"
    feed(machine, Scale(1))
    assert machine.phases["rollout-1"] is Phase.STOPPING
    assert feed(machine, Failed("rollout-1", "engine lost")) == [Kill("rollout-1")]
    assert machine.restarted["rollout-1"] == 0, "it was to leave anyway"
    assert feed(machine, Scale(2)) == [Place("rollout-4")], "of the old ones something is left"
    feed(machine, Gone("rollout-1"))
    assert feed(machine, Scale(3)) == [Place("rollout-1")]
    assert feed(machine, Placed("rollout-1")) == [Build("rollout-1", attempt=1)], "a higher incarnation"
    assert machine.state is State.RUNNING


def test_who_does_not_leave_in_time_is_killed() -> None:
    machine = started(two_of_each(), FleetSection(drain_s=20.0))
    feed(machine, Scale(1), now_s=100.0)
    late_s = 100.0 + 20.0 + ending.FAREWELL_S
    assert feed(machine, Tick(), now_s=late_s - 0.1) == []
    assert feed(machine, Tick(), now_s=late_s) == [Kill("rollout-1")]
    assert "did not leave" in machine.notes[-1]


def test_a_signal_has_those_that_are_leaving_anyway_end_at_once() -> None:
    machine = started(two_of_each())
    feed(machine, Scale(1))
    feed(machine, StopRequested("SIGTERM"))
    actions = feed(machine, Ended("learner-0"), Ended("learner-1"))
    assert ids(actions, Stop) == {"rollout-0", "rollout-1"}
    assert feed(machine, Scale(5)) == []
    assert feed(machine, Ended("rollout-0")) == []
    assert end_the_rest(machine, feed(machine, Ended("rollout-1"))).state is State.STOPPED


def test_a_mistake_of_a_machine_that_joined_does_not_end_the_run() -> None:
    machine = started()
    feed(machine, Scale(2))
    feed(machine, Placed("rollout-1"))
    assert feed(machine, Failed("rollout-1", "no model here", user_error=True)) == [Kill("rollout-1")]
    assert (machine.phases["rollout-1"], machine.state) == (Phase.QUARANTINED, State.RUNNING)
    assert feed(machine, Scale(2)) == [Place("rollout-2")]


def with_spare(**fields: Any) -> Supervision:
    """rollout-0 and rollout-1 work, rollout-2 is a spare that runs."""
    machine = started(two_of_each(), FleetSection(spare_actors=1, **fields))
    feed(machine, Placed("rollout-2", "fetcher-0"), Built("rollout-2"))
    assert machine.spares == ["rollout-2"]
    return machine


def test_spares_join_once_everything_runs_and_are_not_counted_as_actors() -> None:
    machine = Supervision(PROCESSES, FleetSection(spare_actors=2))
    actions = machine.start()
    feed(machine, *(Built(name) for name in PROCESSES if name != "rollout-0"))
    assert not ids(actions, Place), "they would hold up the start"
    assert ids(feed(machine, Built("rollout-0")), Place) == {"rollout-1", "rollout-2"}
    assert (machine.spares, machine.present_actors, machine.wanted["rollout"]) == (["rollout-1", "rollout-2"], 1, 1)
    assert feed(machine, Tick()) == [], "once"


def test_a_spare_takes_over_at_once_and_who_failed_is_the_spare_when_it_is_back() -> None:
    machine = with_spare()
    assert feed(machine, Failed("rollout-0", "killed")) == [Kill("rollout-0")]
    assert (machine.spares, machine.present_actors) == (["rollout-0"], 2)
    assert feed(machine, Gone("rollout-0"), Tick(), now_s=9.0) == [Place("rollout-0")]
    feed(machine, Placed("rollout-0"), Built("rollout-0"), now_s=9.0)
    assert machine.spares == ["rollout-0"]
    feed(machine, Hung("rollout-2", "it does nothing"), now_s=9.0)
    assert (machine.spares, machine.phases["rollout-0"]) == (["rollout-2"], Phase.RUNNING)


def test_a_spare_that_does_not_run_yet_takes_over_when_it_does() -> None:
    machine = started(two_of_each(), FleetSection(spare_actors=1))
    feed(machine, Failed("rollout-1", "killed"), Placed("rollout-2", "fetcher-0"))
    assert machine.spares == ["rollout-2"]
    feed(machine, Built("rollout-2"))
    assert machine.spares == ["rollout-1"]


def test_a_spare_takes_the_place_of_one_that_is_quarantined_and_leaves_none_behind() -> None:
    machine = with_spare(restarts=0)
    assert feed(machine, Failed("rollout-0", "killed")) == [Kill("rollout-0")]
    assert (machine.spares, machine.present_actors) == ([], 2)
    assert ids(feed(machine, Scale(2)), Place) == {"rollout-3"}, "asked for anew"
    feed(machine, Failed("rollout-3", "no memory"), Failed("rollout-1", "killed"), Failed("rollout-2", "killed"))
    assert machine.state is State.STOPPING, "a spare that is quarantined takes no place"


def test_the_place_of_one_that_is_quarantined_is_vacant_until_another_has_it() -> None:
    machine = started(two_of_each(), FleetSection(restarts=0))
    feed(machine, Failed("rollout-0", "killed"), Failed("reward-1", "killed"))
    assert (machine.vacant("rollout"), machine.vacant("reward"), machine.vacant("fetcher")) == (1, 1, 0)
    feed(machine, Scale(2, 1))
    assert (machine.vacant("rollout"), machine.vacant("reward")) == (0, 0), "another one is asked for, and one is enough"
    feed(machine, Failed("rollout-2", "no memory"))
    assert machine.vacant("rollout") == 1


def test_a_place_that_a_spare_has_taken_is_not_vacant() -> None:
    machine = with_spare(restarts=0)
    feed(machine, Failed("rollout-0", "killed"))
    assert (machine.vacant("rollout"), machine.present_actors) == (0, 2)


def test_a_spare_that_is_quarantined_leaves_no_work_behind() -> None:
    machine = started(two_of_each(), FleetSection(spare_actors=2, restarts=0))
    for name in ("rollout-2", "rollout-3"):
        feed(machine, Placed(name, "fetcher-0"), Built(name))
    feed(machine, Failed("rollout-2", "no memory"))
    assert (machine.spares, machine.present_actors) == (["rollout-3"], 2)


def test_a_larger_fleet_has_the_spare_to_begin_with_and_a_smaller_one_keeps_it() -> None:
    machine = with_spare()
    assert feed(machine, Scale(3)) == [Place("rollout-3")]
    assert (machine.spares, machine.present_actors) == (["rollout-3"], 3)
    assert ids(feed(machine, Scale(1)), Drain) == {"rollout-2", "rollout-1"}
    assert (machine.spares, machine.present_actors) == (["rollout-3"], 1)


def test_at_the_end_spares_stop_with_the_actors_and_take_nobodys_place() -> None:
    machine = with_spare()
    feed(machine, Ended("rollout-0"), Ended("learner-0"))
    actions = feed(machine, Ended("learner-1"))
    assert ids(actions, Stop) == {"rollout-1", "rollout-2"}
    assert machine.spares == ["rollout-2"]
    assert end_the_rest(machine, actions).state is State.COMPLETED


def test_reward_servers_join_and_leave_and_the_last_words_are_heard() -> None:
    machine = started()
    assert feed(machine, Scale(rewards=3)) == [Place("reward-1"), Place("reward-2")]
    assert machine.wanted == {"rollout": 1, "reward": 3, "spare": 0}
    assert feed(machine, Placed("reward-1"), Built("reward-1")) == [Build("reward-1"), Run("reward-1")]
    assert machine.rewards == ["reward-0", "reward-1", "reward-2"]
    assert feed(machine, Scale(rewards=1)) == [Kill("reward-2"), Drain("reward-1", "the fleet is made smaller")]
    assert machine.rewards == ["reward-0"], "nobody asks one that leaves"
    assert feed(machine, Ended("reward-1", {"items": 5})) == [Kill("reward-1")]
    assert machine.restarted["reward-1"] == 0
    feed(machine, Gone("reward-1"))
    assert feed(machine, Scale(rewards=2)) == [Place("reward-1")]


def test_a_server_that_left_does_not_stand_in_for_the_last_one() -> None:
    machine = started(two_of_each(), FleetSection(restarts=0, drain_s=20.0))
    feed(machine, Scale(rewards=1))
    assert feed(machine, Tick(), now_s=21.0 + ending.FAREWELL_S) == [Kill("reward-1")], "it did not leave in time"
    feed(machine, Failed("reward-0", "killed"))
    assert machine.state is State.STOPPING


def test_one_that_hangs_is_ended_and_comes_back() -> None:
    machine = started()
    assert feed(machine, Hung("rollout-0", "it does nothing")) == [Kill("rollout-0")]
    assert feed(machine, Hung("rollout-0", "it does nothing")) == [], "that was told"
    assert (machine.hung["rollout-0"], machine.phases["rollout-0"]) == (1, Phase.RESTARTING)
    feed(machine, StopRequested("SIGTERM"))
    assert feed(machine, Hung("learner-0", "it does nothing")) == [], "its deadline is that of its wave"


def test_a_learner_that_hangs_is_ended_even_if_it_does_not_come_back() -> None:
    machine = started(section=FleetSection(learner_restarts=0))
    assert ids(feed(machine, Hung("learner-0", "it does nothing")), Kill) == {"learner-0", "learner-1"}


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
    learner_s, rollout_s, server_s = (100.0 + limit_s for limit_s in ending.SIGNAL_LIMITS_S)
    assert feed(machine, Tick(), now_s=learner_s - 0.1) == []
    actions = feed(machine, Tick(), now_s=learner_s)
    assert ids(actions, Kill) == {"learner-0", "learner-1"}
    assert ids(actions, Stop) == {"rollout-0"}
    assert ids(feed(machine, Tick(), now_s=rollout_s), Kill) == {"rollout-0"}
    assert isinstance(feed(machine, Tick(), now_s=server_s)[-1], Finish)
    assert server_s <= 117.0, "with Ray's own end this must stay below twenty seconds"


def test_a_drain_ends_the_learner_once_it_has_what_the_actors_were_working_on() -> None:
    machine = started(two_of_each())
    feed(machine, Scale(1))
    assert feed(machine, StopRequested("rba stop", hurried=False)) == [Drain("rollout-0", "rba stop")], "the other one was told before"
    assert feed(machine, Ended("rollout-1")) == []
    assert machine.state is State.STOPPING
    actions = feed(machine, Ended("rollout-0"))
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    assert end_the_rest(machine, actions) == Finish(State.STOPPED, "rba stop")


def test_a_drain_waits_for_actors_as_long_as_the_configuration_says_and_gives_a_large_model_time_for_its_checkpoint() -> None:
    machine = started(section=FleetSection(drain_s=50.0))
    feed(machine, StopRequested("rba stop", hurried=False), now_s=0.0)
    late_s = 50.0 + ending.FAREWELL_S
    assert feed(machine, Tick(), now_s=late_s - 0.1) == []
    actions = feed(machine, Tick(), now_s=late_s)
    assert ids(actions, Kill) == {"rollout-0"}
    assert ids(actions, Stop) == {"learner-0", "learner-1"}
    assert feed(machine, Tick(), now_s=late_s + 500.0) == []
    actions = feed(machine, Ended("learner-0"), Ended("learner-1"), now_s=late_s + 550.0)
    assert ids(actions, Stop) == {"reward-0", "fetcher-0", "weight_store-0"}


def test_a_learner_that_completes_during_a_drain_ends_as_well() -> None:
    machine = started()
    feed(machine, StopRequested("rba stop", hurried=False))
    assert feed(machine, Ended("learner-0"), Ended("learner-1")) == []
    assert end_the_rest(machine, feed(machine, Ended("rollout-0"))).state is State.STOPPED


def test_the_last_words_of_a_process_are_told() -> None:
    machine = started()
    feed(machine, Failed("rollout-0", "its process died", detail="  terminate called"))
    assert machine.notes[0] == "rollout-0 said last:\n  terminate called"
    assert "its process died" in machine.notes[1]


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
