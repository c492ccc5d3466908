from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.dialogue.sequences import SequenceSet


@given(st.lists(st.integers(0, 30)))
def test_it_is_a_set(numbers: list[int]) -> None:
    found, model = SequenceSet(), set[int]()
    for number in numbers:
        assert found.add(number) == (number not in model)
        model.add(number)
        assert len(found) == len(model)
        assert found.stretches == sum(each - 1 not in model for each in model)
    assert [number for number in range(-2, 33) if number in found] == sorted(model)


def test_it_stays_small_when_it_has_no_gaps() -> None:
    found = SequenceSet()
    for number in reversed(range(10_000)):
        found.add(number)
    assert found.stretches == 1
    assert 9_999 in found
    assert 10_000 not in found


def test_it_stays_small_when_it_begins_in_the_middle() -> None:
    found = SequenceSet()
    for number in range(50_000, 60_000):
        found.add(number)
    assert (found.stretches, len(found)) == (1, 10_000)
    assert 0 not in found
