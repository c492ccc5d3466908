"""Processes that die, stand still or hang, and all that come back."""

from __future__ import annotations

from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.record import monotonic_s


def test_a_learner_that_is_killed_over_and_over_loses_nothing(drill: Drill, told: Told) -> None:
    drill.begin()
    worst_s = 0.0
    for _ in range(5):
        drill.goes_on(4)
        drill.kill("learner-0")
        drill.start_learner()
        back_s = drill.until(lambda: drill.rows("ready", process="learner-0")[drill._lineage - 1 :], "its return")[-1]["at_s"]
        worst_s = max(worst_s, drill.recovery_s(back_s))
    drill.goes_on()
    drill.finish()
    told(1, "five kills, nothing lost, nothing trained twice", worst_s)
