"""Whether and when a process that failed may come back: a budget within a window, and pauses that grow. Pure: the clock is passed in."""

from __future__ import annotations

import random
from collections import defaultdict, deque

LONGEST_WAIT_S = 60.0


class Restarts:
    """At most `budget` restarts of each process within any `window_s`.

    The first pause is about `wait_s`, and each further one twice as long; a random part of it keeps processes that failed
    together from coming back together.
    """

    def __init__(self, budget: int, window_s: float, wait_s: float, chance: random.Random) -> None:
        self._budget, self._window_s, self._wait_s, self._chance = budget, window_s, wait_s, chance
        self._granted: dict[str, deque[float]] = defaultdict(deque)

    def grant(self, name: str, now_s: float) -> float | None:
        """The pause before `name` may be started again; None when its budget is spent."""
        granted = self._granted[name]
        while granted and now_s - granted[0] >= self._window_s:
            granted.popleft()
        if len(granted) >= self._budget:
            return None
        wait_s: float = min(LONGEST_WAIT_S, self._wait_s * 2 ** len(granted))
        granted.append(now_s)
        return wait_s * self._chance.uniform(0.5, 1.0)
