"""Which of the items that wait are scored together: the decision, without queue, clock or scorer."""

from __future__ import annotations

from collections.abc import Sequence


def pack(costs: Sequence[int], max_items: int, max_cost: int) -> list[int]:
    """Indices into `costs` (what waits, oldest first) of the next batch, in ascending order; none when nothing waits.

    A batch costs as much as its most expensive item times the number of its items, since short conversations are padded to the longest.
    It has at most `max_items` and costs at most `max_cost`; an item that is beyond that alone goes alone. The oldest item always goes, so
    that whoever waits gets one place nearer with each batch; what goes with it is of like cost, as many as there is room for.
    """
    if not costs:
        return []
    order = sorted(range(len(costs)), key=lambda index: (costs[index], index))
    oldest = order.index(0)
    best = (oldest, oldest + 1)
    start = 0
    for end in range(oldest + 1, len(order) + 1):
        start = max(start, end - max_items)
        while start < oldest and max(1, costs[order[end - 1]]) * (end - start) > max_cost:
            start += 1
        if start > oldest or max(1, costs[order[end - 1]]) * (end - start) > max_cost:
            break
        if end - start > best[1] - best[0]:
            best = (start, end)
    return sorted(order[slice(*best)])
