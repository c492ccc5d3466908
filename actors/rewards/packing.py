"""Which of the items that wait are scored together: the decision, without queue, clock or scorer."""

from __future__ import annotations

from collections.abc import Sequence


def pack(costs: Sequence[int], max_items: int, max_cost: int) -> list[list[int]]:
    """All indices into `costs` (what waits, oldest first) in batches, each in ascending order; the batch with the oldest item comes first.

    A batch costs as much as its most expensive item times the number of its items, since short conversations are padded to the longest, so
    that like goes with like. It has at most `max_items` and costs at most `max_cost`; an item that is beyond that alone goes alone.
    """
    batches: list[list[int]] = []
    most = 0
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        if not batches or len(batches[-1]) == max_items or most * (len(batches[-1]) + 1) > max_cost:
            batches.append([])
            most = max(1, costs[index])
        batches[-1].append(index)
    return sorted(sorted(batch) for batch in batches)
