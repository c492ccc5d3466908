"""How fast a run goes: rates over the last while, and the time that is left. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

WINDOW_S = 30.0
"""Rates are means over this long."""


class _Seen(NamedTuple):
    now_s: float
    step: int
    groups: int
    pairs: int
    tokens: int


class Total:
    """The sum of counters, each of a process that counts from zero when it is started again."""

    def __init__(self) -> None:
        self.value = 0
        self._last: dict[str, int] = {}

    def saw(self, counts: Mapping[str, int]) -> int:
        """The sum with what these processes have counted by now; those that are not there add nothing."""
        for name, count in counts.items():
            last = self._last.get(name, 0)
            self.value += count - last if count >= last else count
            self._last[name] = count
        return self.value


class Pace:
    """Counters as they were, newest last."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()
        self._first_step: _Seen | None = None

    def saw(self, now_s: float, *, step: int, groups: int, pairs: int, tokens: int) -> None:
        """Counters since the run's start: learner steps, groups trained, pairs trained, tokens sampled by all actors."""
        seen = _Seen(now_s, step, groups, pairs, tokens)
        if step and self._first_step is None:
            self._first_step = seen
        self._seen.append(seen)
        while len(self._seen) > 2 and self._seen[1].now_s <= now_s - WINDOW_S:
            self._seen.popleft()

    def figures(self, steps: int) -> dict[str, float]:
        """``groups_per_s``, ``pairs_per_s`` and ``tokens_per_s`` of the last while, and ``eta_s`` until step `steps`.

        What is not known yet is left out.
        """
        if len(self._seen) < 2 or self._seen[-1].now_s <= self._seen[0].now_s:
            return {}
        old, new, first = self._seen[0], self._seen[-1], self._first_step
        seconds = new.now_s - old.now_s
        # A process that was started again counts from zero.
        rates = {"tokens_per_s": max(0, new.tokens - old.tokens) / seconds} if new.tokens else {}
        if new.step:
            rates["groups_per_s"] = max(0, new.groups - old.groups) / seconds
        if new.pairs:
            rates["pairs_per_s"] = max(0, new.pairs - old.pairs) / seconds
        if first is not None and new.step > first.step:
            rates["eta_s"] = (new.now_s - first.now_s) / (new.step - first.step) * max(0, steps - new.step)
        return rates
