"""How the figures that people watch went in the last minutes. Pure: the clock is passed in."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

EVERY_S = 10.0
"""Length of one point, which is the mean of what was seen in it."""
POINTS = 60
WATCHED = ("reward", "consistency", "pairs_per_s", "tokens_per_s", "loss")


class Trends:
    """Points of each figure, newest last. One thread tells it what it sees; `points` may be called from any."""

    def __init__(self) -> None:
        self._points: dict[str, deque[float]] = {name: deque(maxlen=POINTS) for name in WATCHED}
        self._since_s: float | None = None
        self._seen: defaultdict[str, list[float]] = defaultdict(list)

    def saw(self, now_s: float, figures: Mapping[str, float | None]) -> None:
        """The figures of this moment; those that are not known are left out, or None."""
        self._since_s = now_s if self._since_s is None else self._since_s
        for name in WATCHED:
            if (value := figures.get(name)) is not None:
                self._seen[name].append(value)
        if now_s - self._since_s >= EVERY_S:
            self._since_s = now_s
            for name, values in self._seen.items():
                self._points[name].append(round(statistics.fmean(values), 5))
            self._seen.clear()

    def points(self) -> dict[str, Any]:
        """``{"every_s": 10.0, "reward": [0.41, …], …}``, of the figures that have points."""
        return {"every_s": EVERY_S, **{name: list(points) for name, points in self._points.items() if points}}
