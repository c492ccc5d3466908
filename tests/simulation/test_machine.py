"""Hypothesis looks for a schedule that breaks a promise, and for the shortest one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation.plan import Plan
from tests.simulation.rules import RULES, Rule
from tests.simulation.world import World

EXAMPLES, STEPS = 300, 40
numbers = st.integers(0, (1 << 16) - 1)


class Run(RuleBasedStateMachine):
    """All rules of the model; in a quarter of the runs every message goes through its bytes."""

    world: World

    @initialize(number=st.integers(0, (1 << 24) - 1))
    def begin(self, number: int) -> None:
        self.world = World(Plan.of(number), coded=number % 4 == 0)

    @invariant()
    def every_promise_holds(self) -> None:
        self.world.watch.check()
        learner = self.world.learner
        if learner is not None and not learner.catching_up and not learner.closed:
            self.world.watch.places(learner)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


def _rule(what: Rule) -> Any:
    def apply(self: Run, number: int) -> None:
        what(self.world, number)

    apply.__name__ = what.__name__
    return rule(number=numbers)(apply)


for _each in RULES:
    setattr(Run, _each.__name__, _rule(_each))

TestRun = Run.TestCase
TestRun.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
