"""Hypothesis looks for a schedule that breaks a promise, and for the shortest one."""

from __future__ import annotations

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation.plan import Plan
from tests.simulation.walker import TABLE
from tests.simulation.world import World

EXAMPLES, STEPS = 300, 40
CHOICES = 1 << 16
"""Of each rule."""


class Run(RuleBasedStateMachine):
    """All rules of the model, as often as in a walk; in a quarter of the runs every message goes through its bytes.

    Most of the time is Hypothesis's, and goes by what it draws: so one number stands for a rule and its choice.
    """

    world: World
    changed = False

    @initialize(number=st.integers(0, (1 << 24) - 1))
    def begin(self, number: int) -> None:
        self.world = World(Plan.of(number), coded=number % 4 == 0)
        self.changed = True

    @rule(number=st.integers(0, CHOICES * len(TABLE) - 1))
    def something_happens(self, number: int) -> None:
        choice, place = divmod(number, len(TABLE))
        what = TABLE[place]
        self.changed = what(self.world, choice)
        note(f"{what.__name__}(world, {choice})" + ("" if self.changed else ", which changes nothing"))

    @invariant()
    def every_promise_holds(self) -> None:
        if not self.changed:
            return
        self.world.watch.check()
        learner = self.world.learner
        if learner is not None and not learner.catching_up and not learner.closed:
            self.world.watch.places(learner)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


TestRun = Run.TestCase
TestRun.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
