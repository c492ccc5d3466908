"""Processes that die, stand still or hang, and come back."""

from __future__ import annotations

import signal
import threading
import time

from configs.machines import FleetSection
from ops.hangs import HangWatch, Seen
from ops.orders import Phase
from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.record import monotonic_s


def granted_again(drill: Drill, ordinals: set[int], since_s: float) -> set[int]:
    """Those of `ordinals` that were leased with a higher epoch since."""
    groups = [group for row in drill.rows("granted", since_s=since_s) for group in row["groups"]]
    return {ordinal for ordinal, epoch, _ in groups if ordinal in ordinals and epoch > 0}


def test_a_learner_that_is_killed_over_and_over_loses_nothing(drill: Drill, told: Told) -> None:
    drill.begin()
    worst_s = 0.0
    for _ in range(5):
        drill.goes_on(4)
        drill.kill("learner-0")
        drill.start_learner()
        back_s = drill.until(drill.readiness("learner-0"), "its return")
        worst_s = max(worst_s, drill.recovery_s(back_s))
    drill.goes_on()
    drill.finish()
    told(1, "five kills: nothing lost, nothing trained twice, each life retrains to the same digests", worst_s)


def test_an_actor_that_is_killed_comes_back_and_the_others_do_not_notice(drill: Drill, told: Told) -> None:
    drill.answer_s = 0.1
    drill.begin()
    drill.until(lambda: len(drill.in_hand("rollout-0")) >= 2, "work under way")
    lost, killed_s = drill.in_hand("rollout-0"), monotonic_s()
    drill.kill("rollout-0")
    drill.recovery_s(killed_s, process="rollout-1")
    drill.until(lambda: granted_again(drill, lost, killed_s), "its work is leased again")
    drill.start_actor(0)
    started_s = monotonic_s()
    recovery_s = drill.recovery_s(started_s, process="rollout-0")
    assert {row["incarnation"] for row in drill.rows("acked", since_s=started_s, process="rollout-0")} == {1}
    drill.goes_on()
    drill.finish()
    told(2, "its groups are leased again, the other actor is acknowledged throughout, it returns as incarnation 1", recovery_s)


def test_an_actor_that_stands_still_loses_its_leases_and_is_welcome_again(drill: Drill, told: Told) -> None:
    drill.answer_s = 0.1
    drill.begin()
    drill.until(lambda: len(drill.in_hand("rollout-0")) >= 2, "work under way")
    stopped_s = monotonic_s()
    drill.signal("rollout-0", signal.SIGSTOP)
    drill.until(lambda: drill.logged("actor silent", "rollout-0", stopped_s), "the verdict")
    drill.until(lambda: granted_again(drill, drill.in_hand("rollout-0"), stopped_s), "its work is leased again")
    drill.goes_on()
    drill.signal("rollout-0", signal.SIGCONT)
    recovery_s = drill.recovery_s(monotonic_s(), process="rollout-0")
    drill.until(lambda: drill.ledger()["duplicate"] > 0, "its late results are counted as duplicates")
    drill.goes_on()
    drill.finish()
    told(3, "silent after 3 heartbeats, its groups go to the other; on return its late results are counted duplicates", recovery_s)


def test_actors_of_a_learner_that_stands_still_stop_at_their_credit(drill: Drill, told: Told) -> None:
    drill.begin()
    actors = ["rollout-0", "rollout-1"]
    drill.signal("learner-0", signal.SIGSTOP)
    drill.until(lambda: not any(drill.in_hand(name) for name in actors), "all that was leased is answered")
    stopped_s = monotonic_s()
    memory = {name: drill.process(name).memory_info().rss for name in actors}
    drill.until(lambda: all(len(drill.rows("greeted", since_s=stopped_s, process=name)) > 15 for name in actors), "greetings in vain")
    assert not drill.rows("leased", "sent", "acked", since_s=stopped_s)
    waiting = sum(len(row["ordinals"]) * (1 if row["event"] == "sent" else -1) for row in drill.rows("sent", "acked"))
    assert waiting <= drill.budget_groups
    for name in actors:
        assert drill.process(name).memory_info().rss < memory[name] + (8 << 20)
    drill.signal("learner-0", signal.SIGCONT)
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on()
    drill.finish()
    told(4, f"{waiting} groups unacknowledged, at most {drill.budget_groups} may be; resident memory flat, nothing lost", recovery_s)


def test_an_actor_that_hangs_with_pythons_lock_held_is_found_and_replaced(drill: Drill, told: Told) -> None:
    """ZeroMQ goes on answering pings from threads of its own; the learner and the supervisor go by what Python says."""
    drill.begin()
    peers = {each.raddr for each in drill.process("rollout-0").net_connections() if each.raddr and each.raddr.port == drill.learner_port}
    watch, answered_s = HangWatch(FleetSection(hang_timeout_s=1.5)), [time.monotonic()]

    def verdict() -> str:
        status = drill.status("rollout-0", 0.2)
        answered_s[0] = time.monotonic() if status else answered_s[0]
        seen = Seen("rollout", Phase.RUNNING, drill.pids["rollout-0"], answered_s[0], status)
        hung = watch.look(time.monotonic(), {"rollout-0": seen})
        return hung[0].reason if hung else ""

    assert not verdict()
    hung_s = monotonic_s()
    drill.order("rollout-0", do="hang", seconds=60)
    drill.until(lambda: drill.logged("actor silent", "rollout-0", hung_s), "the learner's verdict")
    reason = drill.until(verdict, "the supervisor's verdict")
    assert "not answered" in reason
    assert len(drill.rows("registered", process="rollout-0")) == 1, "its connection was never lost"
    assert peers
    drill.kill("rollout-0")
    drill.start_actor(0)
    recovery_s = drill.recovery_s(monotonic_s(), process="rollout-0")
    drill.goes_on()
    drill.finish()
    told(
        5,
        "its connection stays; the learner calls it silent after 3 heartbeats, the supervisor hung; it is killed and replaced",
        recovery_s,
    )


def test_who_is_told_to_end_drains_first(drill: Drill, told: Told) -> None:
    drill.begin()
    drill.signal("rollout-0", signal.SIGTERM)
    drill.until(lambda: not drill.alive("rollout-0"), "the actor's end")
    rows = drill.rows("sent", "acked", "ended", process="rollout-0")
    assert rows[-1]["event"] == "ended"
    sent, acked = ({ordinal for row in rows if row["event"] == kind for ordinal in row["ordinals"]} for kind in ("sent", "acked"))
    assert sent == acked
    drill.until(lambda: drill.logged("actor left", "rollout-0") or drill.logged("actor unreachable", "rollout-0"), "it is known to be gone")
    drill.goes_on()
    drill.signal("learner-0", signal.SIGTERM)
    drill.until(lambda: not drill.alive("learner-0"), "the learner's end")
    assert drill.rows("ended", process="learner-0")
    assert (drill.folder / "run" / "checkpoints" / f"step-{drill.step()}").is_dir()
    drill.until(lambda: not drill.alive("rollout-1"), "the other actor's end")

    drill.start_learner()
    drill.start_actor(0)
    drill.goes_on()
    drill.ask("learner-0", do="set step", seconds=5.0)
    asked_s = monotonic_s()
    drill.goes_on(1)
    reached = drill.step()
    drill.until(lambda: any(row["step"] > reached for row in drill.rows("stepping", since_s=asked_s)), "the middle of a step")
    drill.signal("learner-0", signal.SIGTERM)
    drill.until(lambda: drill.rows("stopping", since_s=asked_s), "the first signal is heard")
    drill.signal("learner-0", signal.SIGTERM)
    drill.until(lambda: not drill.alive("learner-0"), "its end at once")
    assert not drill.rows("ended", since_s=asked_s)
    drill.start_learner()
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on()
    drill.finish()
    told(
        20,
        "the actor leaves with every result acknowledged, the learner with a checkpoint; the second signal is a kill, and costs nothing",
        recovery_s,
    )


def test_a_learner_without_actors_idles_until_they_come(drill: Drill, told: Told) -> None:
    drill.begin()
    for name in ("rollout-0", "rollout-1"):
        drill.kill(name)
    drill.until(lambda: drill.status().get("actors") == [], "the verdict")
    process, window_s = drill.process("learner-0"), 3.0
    before, from_s = sum(process.cpu_times()[:2]), monotonic_s()
    threading.Event().wait(window_s)  # nothing is to happen, and so there is nothing to wait for
    share = (sum(process.cpu_times()[:2]) - before) / (monotonic_s() - from_s)
    assert share < 0.05, f"the learner uses {share:.1%} of a core"
    assert drill.status()["state"] == "training"
    for index in (0, 1):
        drill.start_actor(index)
    back_s = monotonic_s()
    recovery_s = drill.recovery_s(back_s)
    for name in ("rollout-0", "rollout-1"):
        drill.recovery_s(back_s, process=name)
    drill.goes_on()
    drill.finish()
    told(22, f"the learner waits, at {share:.1%} of a core", recovery_s)


def test_clocks_that_jump_change_nothing(drill: Drill, told: Told) -> None:
    drill.begin()
    jumped_s = monotonic_s()
    for name, by_s in (("learner-0", 3600.0), ("rollout-0", -3600.0), ("fetcher-0", -3600.0), ("weight_store-0", 3600.0)):
        drill.ask(name, do="set clock", by_s=by_s)
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on(10)
    drill.ask("learner-0", do="set clock", by_s=-7200.0)
    drill.goes_on(10)
    assert not drill.logged("actor silent", since_s=jumped_s)
    assert not drill.logged("lease expired", since_s=jumped_s)
    assert drill.status()["idle_s"] < 600
    drill.finish()
    told(24, "no lease expires, nobody falls silent", recovery_s)
