from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.dialogue.sequences import SequenceSet


@given(st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 30))))
def test_it_is_a_set(below: int, calls: list[tuple[bool, int]]) -> None:
    found, model = SequenceSet(below), set(range(below))
    for fill, number in calls:
        if fill:
            found.fill(number)
            model |= set(range(number))
        else:
            assert found.add(number) == (number not in model)
            model.add(number)
        assert len(found) == len(model)
        assert found.intervals == sum(number - 1 not in model for number in model)
        assert [number for number in range(-2, 33) if number in found] == sorted(model)


def test_it_is_as_large_as_it_has_gaps() -> None:
    found = SequenceSet()
    for number in reversed(range(10_000)):
        found.add(number)
    assert found.intervals == 1
    assert 9_999 in found
    assert 10_000 not in found


def test_it_stays_small_when_it_begins_in_the_middle() -> None:
    found = SequenceSet()
    for number in range(50_000, 60_000):
        found.add(number)
    assert (found.intervals, len(found)) == (1, 10_000)
    assert 0 not in found


def test_numbers_are_filled_in_from_below() -> None:
    found = SequenceSet(10_000)
    found.add(20_000)
    assert found.intervals == 2
    found.fill(20_000)
    assert found.intervals == 1
    assert 20_000 in found
    assert 20_001 not in found
