"""A growing set of whole numbers that stays small while it has few gaps."""

from __future__ import annotations

from bisect import bisect_right


class SequenceSet:
    """Numbers from 0 up, as intervals: it is as large as it has gaps."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, below: int = 0) -> None:
        """All numbers from 0 to `below` - 1."""
        self._starts = [0] if below > 0 else []
        self._ends = [below] if below > 0 else []
        """The first number behind each interval. Between two intervals there is a gap."""

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        return place > 0 and number < self._ends[place - 1]

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    @property
    def intervals(self) -> int:
        """Stretches without a gap."""
        return len(self._starts)

    def add(self, number: int) -> bool:
        """Put it in; False when it was there."""
        if number in self:
            return False
        starts, ends = self._starts, self._ends
        place = bisect_right(starts, number)
        joins_left, joins_right = place > 0 and ends[place - 1] == number, place < len(starts) and starts[place] == number + 1
        if joins_left and joins_right:
            ends[place - 1] = ends.pop(place)
            del starts[place]
        elif joins_left:
            ends[place - 1] = number + 1
        elif joins_right:
            starts[place] = number
        else:
            starts.insert(place, number)
            ends.insert(place, number + 1)
        return True

    def fill(self, below: int) -> None:
        """Put all numbers from 0 to `below` - 1 in."""
        if below <= 0:
            return
        place = bisect_right(self._starts, below)
        end = max([below, *self._ends[place - 1 : place]])
        self._starts[:place], self._ends[:place] = [0], [end]
