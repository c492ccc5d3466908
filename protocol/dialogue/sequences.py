"""A growing set of whole numbers that stays small while it has few gaps."""

from __future__ import annotations


class SequenceSet:
    """The numbers 0 … `_frontier` - 1, and a few beyond."""

    __slots__ = ("_beyond", "_frontier")

    def __init__(self, below: int = 0) -> None:
        """All numbers from 0 to `below` - 1."""
        self._frontier = below
        self._beyond: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return 0 <= number < self._frontier or number in self._beyond

    def __len__(self) -> int:
        return self._frontier + len(self._beyond)

    def add(self, number: int) -> bool:
        """Put it in; False when it was there."""
        if number in self:
            return False
        self._beyond.add(number)
        while self._frontier in self._beyond:
            self._beyond.remove(self._frontier)
            self._frontier += 1
        return True
