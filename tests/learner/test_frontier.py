from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.frontier import Frontier
from protocol.messages import Purpose
from tests.learner.groups import group

GROUPS = [group(number) for number in range(7)]


def test_every_epoch_has_every_group_once_in_its_own_order() -> None:
    frontier = Frontier(GROUPS, seed=3, shuffle=True)
    epochs = [[leased.group.group_id for leased in frontier.take(7)] for _ in range(4)]
    assert all(sorted(epoch) == sorted(entry.group_id for entry in GROUPS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert frontier.epochs == 4


def test_the_seed_decides_order_and_sampling() -> None:
    def stream(seed: int) -> list[tuple[str, int]]:
        return [(leased.group.group_id, leased.seed) for leased in Frontier(GROUPS, seed, shuffle=True).take(20)]

    assert stream(5) == stream(5)
    assert stream(5) != stream(6)
    assert len({seed for _, seed in stream(5)}) == 20


def test_without_shuffling_the_manifests_order_holds() -> None:
    assert [leased.group for leased in Frontier(GROUPS, 1, shuffle=False).take(9)] == [*GROUPS, *GROUPS[:2]]


@given(st.lists(st.one_of(st.tuples(st.just("take"), st.integers(0, 5)), st.tuples(st.just("hold_out"), st.integers(0, 3))), max_size=20))
def test_ordinals_are_never_repeated_nor_skipped(calls: list[tuple[str, int]]) -> None:
    frontier = Frontier(GROUPS, 0, shuffle=True)
    seen = []
    for call, count in calls:
        leases = frontier.take(count) if call == "take" else frontier.hold_out(GROUPS[:count])
        assert {lease.purpose for lease in leases} <= {Purpose.TRAIN if call == "take" else Purpose.EVALUATE}
        seen += [lease.ordinal for lease in leases]
    assert seen == list(range(len(seen)))


def test_held_out_groups_do_not_move_the_training_stream() -> None:
    plain, mixed = Frontier(GROUPS, 2, shuffle=True), Frontier(GROUPS, 2, shuffle=True)
    mixed.hold_out(GROUPS[:3])
    assert [lease.group for lease in plain.take(10)] == [lease.group for lease in mixed.take(10)]


def test_a_group_closes_once() -> None:
    frontier = Frontier(GROUPS, 0, shuffle=True)
    (lease,) = frontier.take(1)
    frontier.hold_out(GROUPS[:1])
    assert frontier.open_training == 1
    assert frontier.close(lease.ordinal) == lease
    assert frontier.close(lease.ordinal) is None
    assert frontier.open_training == 0


def test_no_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Frontier([], 0, shuffle=True)
