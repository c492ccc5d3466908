from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.packing import pack

COSTS = st.lists(st.integers(0, 60), max_size=40)


@given(COSTS, st.integers(1, 12), st.integers(1, 200))
def test_a_batch_keeps_its_bounds_and_takes_the_oldest(costs: list[int], max_items: int, max_cost: int):
    batch = pack(costs, max_items, max_cost)
    assert batch == sorted(set(batch))
    assert bool(batch) == bool(costs)
    if len(batch) > 1:
        assert len(batch) <= max_items
        assert max(costs[index] for index in batch) * len(batch) <= max_cost
    if costs:
        assert batch[0] == 0


@given(COSTS.filter(bool), st.integers(1, 12), st.integers(1, 200))
def test_no_batch_with_the_oldest_has_more_items(costs: list[int], max_items: int, max_cost: int):
    """Slow reference: for each longest item, everything that is no longer."""
    most = 1
    for longest in {max(1, cost) for cost in costs if cost >= costs[0]} | {max(1, costs[0])}:
        fitting = sum(cost <= longest for cost in costs)
        most = max(most, min(fitting, max_items, max_cost // longest))
    assert len(pack(costs, max_items, max_cost)) == most


@given(COSTS, st.integers(1, 12), st.integers(1, 200), st.integers(0, 60))
def test_nobody_starves(costs: list[int], max_items: int, max_cost: int, newcomer: int):
    """However many cheaper ones keep coming, an item goes after at most as many batches as were before it."""
    waiting = [(cost, number) for number, cost in enumerate(costs)]
    for batches in range(len(costs)):
        taken = pack([cost for cost, _ in waiting], max_items, max_cost)
        waiting = [item for index, item in enumerate(waiting) if index not in taken] + [(newcomer, 1000)] * max_items
        assert all(number > batches for _, number in waiting)


def test_like_goes_with_like():
    assert pack([10, 500, 11, 490, 12, 9], 8, 1000) == [0, 2, 4, 5]


def test_equal_costs_go_in_turn():
    assert pack([1] * 10, 4, 1000) == [0, 1, 2, 3]


def test_an_item_beyond_the_budget_goes_alone():
    assert pack([900, 5, 5], 8, 100) == [0]
