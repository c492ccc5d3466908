from __future__ import annotations

import pytest

from ops.orders import State
from ops.overview import RUN_PHASES, run_phase


@pytest.mark.parametrize(
    ("state", "said", "phase"),
    [
        (State.STARTING, "", "starting"),
        (State.RUNNING, "", "starting"),
        (State.RUNNING, "catching up", "starting"),
        (State.RUNNING, "evaluating before", "evaluating"),
        (State.RUNNING, "training", "training"),
        (State.RUNNING, "evaluating validation 40", "evaluating"),
        (State.RUNNING, "copying", "stopping"),
        (State.RUNNING, "completed", "stopping"),
        (State.STOPPING, "training", "stopping"),
        (State.FAILED, "training", "stopping"),
    ],
)
def test_the_phase_is_the_learners_while_the_run_goes_on(state: State, said: str, phase: str) -> None:
    assert run_phase(state, said) == phase
    assert phase in RUN_PHASES
