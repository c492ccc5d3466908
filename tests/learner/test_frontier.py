from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.frontier import Frontier, FrontierState, Source, Turns
from learner.life import Life
from protocol.errors import RbaError
from protocol.messages import Purpose
from tests.learner.groups import group

GROUPS = [group(number) for number in range(7)]
ALONE = [Source(GROUPS)]


def test_every_epoch_has_every_group_once_in_its_own_order() -> None:
    frontier = Frontier(ALONE, seed=3, shuffle=True)
    epochs = [[leased.group.group_id for leased in frontier.take(7)] for _ in range(4)]
    assert all(sorted(epoch) == sorted(entry.group_id for entry in GROUPS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert frontier.epochs == 4


def test_the_seed_decides_order_and_sampling() -> None:
    def stream(seed: int) -> list[tuple[str, int]]:
        return [(leased.group.group_id, leased.seed) for leased in Frontier(ALONE, seed, shuffle=True).take(20)]

    assert stream(5) == stream(5)
    assert stream(5) != stream(6)
    assert len({seed for _, seed in stream(5)}) == 20


def test_without_shuffling_the_manifests_order_holds() -> None:
    assert [leased.group for leased in Frontier(ALONE, 1, shuffle=False).take(9)] == [*GROUPS, *GROUPS[:2]]


@given(st.lists(st.one_of(st.tuples(st.just("take"), st.integers(0, 5)), st.tuples(st.just("hold_out"), st.integers(0, 3))), max_size=20))
def test_ordinals_are_never_repeated_nor_skipped(calls: list[tuple[str, int]]) -> None:
    frontier = Frontier(ALONE, 0, shuffle=True)
    seen = []
    for call, count in calls:
        leases = frontier.take(count) if call == "take" else frontier.hold_out(GROUPS[:count])
        assert {lease.purpose for lease in leases} <= {Purpose.TRAIN if call == "take" else Purpose.EVALUATE}
        seen += [lease.ordinal for lease in leases]
    assert seen == list(range(len(seen)))


def test_held_out_groups_do_not_move_the_training_stream() -> None:
    plain, mixed = Frontier(ALONE, 2, shuffle=True), Frontier(ALONE, 2, shuffle=True)
    mixed.hold_out(GROUPS[:3])
    assert [lease.group for lease in plain.take(10)] == [lease.group for lease in mixed.take(10)]


def test_a_group_closes_once() -> None:
    frontier = Frontier(ALONE, 0, shuffle=True)
    (lease,) = frontier.take(1)
    frontier.hold_out(GROUPS[:1])
    assert frontier.open_training == 1
    assert frontier.close(lease.ordinal) == lease
    assert frontier.close(lease.ordinal) is None
    assert frontier.open_training == 0


def test_no_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Frontier([Source([])], 0, shuffle=True)


@given(st.lists(st.floats(0.05, 3.0), min_size=1, max_size=4), st.integers(1, 200))
def test_sources_take_turns_by_weight(weights: list[float], count: int) -> None:
    turns = Turns(weights)
    found = [turns.at(position) for position in range(count)]
    for source, weight in enumerate(weights):
        own = [index for number, index in found if number == source]
        assert own == list(range(len(own)))
        assert abs(len(own) - count * weight / sum(weights)) <= len(weights)
    assert [turns.at(position) for position in range(count)] == found


def test_each_source_goes_through_epochs_of_its_own() -> None:
    other = [group(number) for number in range(100, 103)]
    frontier = Frontier([Source(GROUPS), Source(other, 0.5)], 0, shuffle=True)
    taken = [leased.group.group_id for leased in frontier.take(21)]
    mine, theirs = ([name for name in taken if name in {entry.group_id for entry in own}] for own in (GROUPS, other))
    assert (len(mine), len(theirs)) == (14, 7)
    assert sorted(mine[:7]) == sorted(mine[7:]) == sorted(entry.group_id for entry in GROUPS)
    assert sorted(theirs[:3]) == sorted(theirs[3:6]) == sorted(entry.group_id for entry in other)
    assert frontier.epochs == 2.1


@given(st.integers(0, 30), st.integers(0, 4), st.integers(0, 20), st.data())
def test_a_later_life_leases_what_was_not_trained_and_then_goes_on(first: int, held_out: int, more: int, data: st.DataObject) -> None:
    sources = [Source(GROUPS), Source([group(number) for number in range(100, 105)], 0.4)]
    whole, earlier = Frontier(sources, 4, shuffle=True), Frontier(sources, 4, shuffle=True)
    expected: dict[int, str] = {}
    for frontier in (whole, earlier):
        expected |= {leased.ordinal: leased.group.group_id for leased in frontier.take(first)}
        frontier.hold_out(GROUPS[:held_out])
        expected |= {leased.ordinal: leased.group.group_id for leased in frontier.take(more)}
    trained = data.draw(st.sets(st.sampled_from(sorted(expected)))) if expected else set()
    queued = data.draw(st.sets(st.sampled_from(sorted(expected)))) - trained if expected else set()
    for ordinal in trained | queued:
        earlier.close(ordinal)
    later = Frontier(sources, 4, shuffle=True, state=earlier.state(queued))
    again = later.take(len(expected) - len(trained) + 10)
    assert [leased.ordinal for leased in again[:-10]] == sorted(set(expected) - trained)
    assert all(leased.group.group_id == expected[leased.ordinal] and leased.lease_epoch > 0 for leased in again[:-10])
    ahead = whole.take(10)
    assert [(leased.ordinal, leased.group, leased.seed) for leased in again[-10:]] == [(one.ordinal, one.group, one.seed) for one in ahead]


SOURCES = [Source(GROUPS), Source([group(number) for number in range(100, 105)], 0.4)]
NAMES = [entry.group_id for source in SOURCES for entry in source.groups]
CALLS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 6)),
    st.tuples(st.just("hold_out"), st.integers(0, 3)),
    st.tuples(st.just("set_aside"), st.sets(st.sampled_from(NAMES[1:]), max_size=3)),  # one always remains
    st.tuples(st.just("close"), st.sets(st.integers(0, 40))),
)


def carry_out(frontier: Frontier, calls: list[tuple[str, object]]) -> list[list[tuple[int, str, int]]]:
    """What each call to `take` hands out."""
    taken = []
    for call, value in calls:
        match call, value:
            case "take", int(count):
                taken.append([(leased.ordinal, leased.group.group_id, leased.seed) for leased in frontier.take(count)])
            case "hold_out", int(count):
                frontier.hold_out(GROUPS[:count])
            case "set_aside", set(names):
                frontier.set_aside(names)
            case "close", set(ordinals):
                for ordinal in ordinals:
                    frontier.close(ordinal)
    return taken


@given(st.lists(CALLS, max_size=15), st.lists(CALLS, max_size=15))
def test_an_interrupted_stream_with_groups_set_aside_goes_on_as_if_uninterrupted(
    before: list[tuple[str, object]], after: list[tuple[str, object]]
) -> None:
    whole, earlier = Frontier(SOURCES, 4, shuffle=True), Frontier(SOURCES, 4, shuffle=True)
    assert carry_out(whole, before) == carry_out(earlier, before)
    state = msgspec.json.decode(msgspec.json.encode(earlier.state([])), type=FrontierState)
    later = Frontier(SOURCES, 4, shuffle=True, state=state)
    # first what is owed, but for what was set aside; then exactly what would have come
    gone = set(state.set_aside)
    owed = [leased for leased in whole._open.values() if leased.purpose is Purpose.TRAIN and leased.group.group_id not in gone]
    again = later.take(len(owed))
    assert [(one.ordinal, one.group, one.seed) for one in again] == sorted((one.ordinal, one.group, one.seed) for one in owed)
    taken = carry_out(later, after)
    assert taken == carry_out(whole, after)
    assert later.epochs == whole.epochs
    if "set_aside" not in {call for call, _ in after}:
        assert not gone & {name for lot in taken for _, name, _ in lot}
    # what nobody was leased counts as settled in the next life, what is owed does not
    settled = Life(frontier=state).settled()
    assert {ordinal for ordinal in range(state.ordinal) if ordinal not in settled} == set(state.untrained)
    assert {one.ordinal for one in owed} <= set(state.untrained)


def test_a_group_set_aside_leaves_the_others_where_they_are() -> None:
    plain, thinned = Frontier(ALONE, 3, shuffle=True), Frontier(ALONE, 3, shuffle=True)
    everything = {(leased.ordinal, leased.group.group_id, leased.seed) for leased in plain.take(21)}
    thinned.set_aside(["group-2", "group-5"])
    rest = [(leased.ordinal, leased.group.group_id, leased.seed) for leased in thinned.take(15)]
    assert rest == sorted(each for each in everything if each[1] not in {"group-2", "group-5"})
    assert thinned.open_training == 15
    assert sorted([*thinned.passed(), *(ordinal for ordinal, *_ in rest)]) == list(range(rest[-1][0] + 1))
    assert thinned.passed() == []


def test_a_stream_with_nothing_left_is_an_error_and_no_endless_loop() -> None:
    frontier = Frontier(ALONE, 0, shuffle=True)
    frontier.set_aside([entry.group_id for entry in GROUPS[1:]])
    assert {leased.group.group_id for leased in frontier.take(5)} == {"group-0"}
    with pytest.raises(RbaError, match="all 7 training groups are set aside"):
        frontier.set_aside(["group-0"])
