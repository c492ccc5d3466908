import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.packing import pack

COSTS = st.lists(st.integers(0, 60), max_size=40)


@given(COSTS, st.integers(1, 12), st.integers(1, 200))
def test_everything_goes_once_within_the_bounds_and_the_oldest_first(costs: list[int], max_items: int, max_cost: int):
    batches = pack(costs, max_items, max_cost)
    assert sorted(index for batch in batches for index in batch) == list(range(len(costs)))
    assert batches == sorted(batches)
    for batch in batches:
        assert batch == sorted(batch)
        assert len(batch) == 1 or (len(batch) <= max_items and max(costs[index] for index in batch) * len(batch) <= max_cost)


@given(COSTS, st.integers(1, 12), st.integers(1, 200))
def test_like_goes_with_like(costs: list[int], max_items: int, max_cost: int):
    """No item has a cost between those of another batch, and what a batch has no room for could not have gone with it."""
    batches = sorted((sorted((costs[index] for index in batch), reverse=True) for batch in pack(costs, max_items, max_cost)), reverse=True)
    for dear, cheap in itertools.pairwise(batches):
        assert dear[-1] >= cheap[0]
        assert len(dear) == max_items or max(1, dear[0]) * (len(dear) + 1) > max_cost


def test_the_batch_of_the_oldest_comes_first():
    assert pack([10, 500, 11, 490, 12, 9], 8, 1000) == [[0, 2, 4, 5], [1, 3]]


def test_equal_costs_go_in_turn():
    assert pack([1] * 6, 4, 1000) == [[0, 1, 2, 3], [4, 5]]


def test_an_item_beyond_the_budget_goes_alone():
    assert pack([900, 5, 5], 8, 100) == [[0], [1, 2]]
