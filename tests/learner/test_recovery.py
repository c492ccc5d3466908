"""When steps without a finite loss lead to a rollback, and when to the end. Pure; the acting parts are in `test_rollback`."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from configs.training import LearnerSection
from learner.recovery import Recovery, RecoveryState, Rollback, Skipped, Stop

SECTION = LearnerSection(nonfinite_steps=3, nonfinite_rollbacks=2)


def test_only_steps_in_a_row_lead_back() -> None:
    recovery = Recovery(SECTION)
    for step in range(1, 20):
        if step % 3:
            assert recovery.skipped(step, [f"g{step}"]) is None
        else:
            recovery.applied(step)
    assert recovery.state == RecoveryState([Skipped(19, ["g19"])], good_below=18)


def test_a_rollback_goes_to_weights_that_a_step_was_made_with() -> None:
    recovery = Recovery(SECTION)
    recovery.applied(4)
    assert recovery.skipped(5, ["a", "b"]) is None
    assert recovery.skipped(6, ["c", "a"]) is None
    # the weights of step 4 are those that three batches failed on; those of step 3 are known to be good
    assert recovery.skipped(7, ["d"]) == Rollback(1, good_below=4, steps=[5, 6, 7], groups=["a", "b", "c", "d"])
    # a checkpoint of step 7 holds what was put back
    assert [recovery.skipped(step, []) for step in (8, 9)] == [None, None]
    assert recovery.skipped(10, []) == Rollback(2, good_below=8, steps=[8, 9, 10], groups=[])


def test_the_last_rollback_is_followed_by_a_stop() -> None:
    recovery = Recovery(LearnerSection(nonfinite_steps=1, nonfinite_rollbacks=1))
    assert isinstance(recovery.skipped(1, []), Rollback)
    recovery.applied(2)
    stop = recovery.skipped(3, [])
    assert isinstance(stop, Stop)
    assert "steps 3 had no finite loss or gradient, after 1 rollbacks" in stop.reason
    assert isinstance(Recovery(LearnerSection(nonfinite_steps=1, nonfinite_rollbacks=0)).skipped(1, []), Stop)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40))
def test_a_later_life_decides_as_an_uninterrupted_one(outcomes: list[bool], at: int) -> None:
    def walk(recovery: Recovery, first: int, applied: list[bool]) -> list[Rollback | Stop | None]:
        found: list[Rollback | Stop | None] = []
        for step, done in enumerate(applied, first):
            if done:
                recovery.applied(step)
            else:
                found.append(recovery.skipped(step, [f"g{step}"]))
        return found

    whole, earlier = Recovery(SECTION), Recovery(SECTION)
    expected = walk(whole, 1, outcomes)
    found = walk(earlier, 1, outcomes[:at])
    later = Recovery(SECTION, msgspec.json.decode(msgspec.json.encode(earlier.state), type=RecoveryState))
    assert found + walk(later, at + 1, outcomes[at:]) == expected
    assert later.state == whole.state


def test_what_a_rollback_led_to_stays_while_a_life_may_come_by_it_again() -> None:
    recovery = Recovery(LearnerSection(nonfinite_steps=1))
    recovery.applied(4)
    assert recovery.skipped(5, ["a"]) is not None
    recovery.went_back(2)
    assert recovery.needed([3, 5]) == {2}
    assert recovery.needed([5, 7]) == set()
    later = Recovery(LearnerSection(nonfinite_steps=1), recovery.state)
    assert later.skipped(9, ["b"]) is not None
    later.went_back(6)
    assert later.needed([4, 9]) == {2, 6}
    assert later.needed([6, 9]) == {6}
