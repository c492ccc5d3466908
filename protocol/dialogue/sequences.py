"""A growing set of whole numbers that stays small while it has few gaps."""

from __future__ import annotations

from bisect import bisect_right


class SequenceSet:
    """Stretches of numbers without a gap, wherever they begin: an actor may be met in the middle of its sequence."""

    __slots__ = ("_ends", "_size", "_starts")

    def __init__(self, below: int = 0) -> None:
        """All numbers from 0 to `below` - 1."""
        self._starts, self._ends = ([0], [below]) if below > 0 else ([], [])
        self._size = max(0, below)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._ends[place]

    def __len__(self) -> int:
        return self._size

    @property
    def intervals(self) -> int:
        """Stretches without a gap; what the set needs in memory grows with them alone."""
        return len(self._starts)

    def add(self, number: int) -> bool:
        """Put it in; False when it was there."""
        after = bisect_right(self._starts, number)
        before = after - 1
        if before >= 0 and number < self._ends[before]:
            return False
        self._size += 1
        follows = before >= 0 and self._ends[before] == number
        precedes = after < len(self._starts) and self._starts[after] == number + 1
        if follows and precedes:
            self._ends[before] = self._ends.pop(after)
            del self._starts[after]
        elif follows:
            self._ends[before] = number + 1
        elif precedes:
            self._starts[after] = number
        else:
            self._starts.insert(after, number)
            self._ends.insert(after, number + 1)
        return True

    def fill(self, below: int) -> None:
        """Put all numbers from 0 to `below` - 1 in."""
        if below <= 0:
            return
        place = bisect_right(self._starts, below)
        end = max([below, *self._ends[place - 1 : place]])
        self._starts[:place], self._ends[:place] = [0], [end]
        self._size = sum(self._ends) - sum(self._starts)
