from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.machines import FleetSection
from ops.autoscaling import Autoscaler, Seen

SECTION = FleetSection(autoscale=True, min_actors=1, max_actors=4, learner_idle=0.2, queue_batches=2, autoscale_window_s=60)
BATCH = 8


class Plant:
    """A learner that takes results at a steady pace, and actors that each bring a share of what it can take."""

    def __init__(self, share: float, section: FleetSection = SECTION, wanted: int = 1) -> None:
        self.rule = Autoscaler(section, BATCH)
        self.share, self.wanted = share, wanted
        self.now_s = self.idle_s = self.queued = self.trained = 0.0
        self.changes: list[tuple[float, int]] = []

    def go_on(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            self.queued = min(24.0, self.queued + self.wanted * self.share)
            taken = min(1.0, self.queued)
            self.queued -= taken
            self.trained += taken
            self.idle_s += 1 - taken
            seen = Seen(True, int(self.trained), self.idle_s, int(self.queued), self.wanted, self.wanted)
            if (actors := self.rule.decide(self.now_s, seen)) is not None:
                self.wanted = actors
                self.changes.append((self.now_s, actors))


def test_a_learner_that_starves_gets_actors_one_by_one() -> None:
    plant = Plant(share=0.36)
    plant.go_on(2000)
    assert plant.wanted == 3, "three bring all that it takes"
    assert [actors for _, actors in plant.changes] == [2, 3]
    (first_s, _), (second_s, _) = plant.changes
    assert second_s - first_s >= SECTION.autoscale_pause_s


def test_actors_that_are_not_needed_leave_and_the_number_stays() -> None:
    plant = Plant(share=0.55, wanted=4)
    plant.go_on(10_000)
    assert plant.wanted == 2
    assert [actors for _, actors in plant.changes][:2] == [3, 2]
    assert len(plant.changes) <= 8, "it tries one less now and then, and does not swing"


def test_nothing_changes_while_what_was_asked_for_is_not_there() -> None:
    rule = Autoscaler(SECTION, BATCH)
    assert all(rule.decide(float(second), Seen(True, 0, 0.0, 0, 2, 1)) is None for second in range(1000))
    assert rule.decide(1000.0, Seen(True, 0, 0.0, 0, 2, 2)) is None
    assert rule.decide(1061.0, Seen(True, 0, 0.0, 0, 2, 2)) == 3


def test_an_evaluation_says_nothing_about_the_actors() -> None:
    rule = Autoscaler(SECTION, BATCH)
    assert all(rule.decide(float(second), Seen(False, 3, 0.0, 0, 1, 1)) is None for second in range(1000))


def test_it_is_off_by_default_and_bounds_have_an_order() -> None:
    plant = Plant(share=0.1, section=FleetSection())
    plant.go_on(1000)
    assert plant.changes == []
    with pytest.raises(ValidationError, match="min_actors"):
        FleetSection(min_actors=5, max_actors=4)


@given(
    st.lists(st.builds(Seen, st.booleans(), st.integers(0, 5), st.floats(0, 500), st.integers(0, 40), st.integers(1, 9), st.integers(0, 9)))
)
def test_what_it_asks_for_is_within_bounds_and_a_step_at_a_time(history: list[Seen]) -> None:
    rule = Autoscaler(SECTION, BATCH)
    for number, seen in enumerate(history):
        actors = rule.decide(45.0 * number, seen)
        if actors is not None:
            assert SECTION.min_actors <= actors <= SECTION.max_actors
            assert abs(actors - min(max(seen.present, 1), 4)) <= 1
