"""Who is leased what. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from protocol.messages import LeasedGroup


class Holder(Protocol):
    """An actor that groups are granted to."""

    begun: frozenset[int]

    @property
    def room(self) -> int:
        """Groups that may be granted to it."""
        ...


AnyHolder = TypeVar("AnyHolder", bound=Holder)


def shares(offered: deque[LeasedGroup], actors: Iterable[AnyHolder]) -> Iterator[tuple[AnyHolder, LeasedGroup]]:
    """Takes groups off `offered`, one at a time, each for the actor with the most room, or for the one that has begun it.

    The caller grants each before it asks for the next one, so that rooms shrink. Ends when either side is used up.
    """
    if not offered:
        return
    holders = list(actors)
    begun = {ordinal: holder for holder in holders for ordinal in holder.begun}
    rooms = [(-holder.room, place) for place, holder in enumerate(holders) if holder.room > 0]
    heapq.heapify(rooms)
    while offered and rooms:
        room, place = rooms[0]
        most = holders[place]
        if most.room != -room:
            heapq.heappop(rooms)
            if most.room > 0:
                heapq.heappush(rooms, (-most.room, place))
            continue
        leased = offered.popleft()
        beginner = begun.get(leased.ordinal)
        yield (beginner if beginner is not None and beginner.room > 0 else most), leased
