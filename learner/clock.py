"""What the learner's thread spends its time on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class Work(StrEnum):
    """What rank 0 does, or waits for."""

    STEP = "step"
    """It trains."""
    PUBLISH = "publish"
    """It gathers and commits a policy version."""
    CHECKPOINT = "checkpoint"
    PAIRS = "pairs"
    """It waits for enough results for a step."""
    EVALUATION = "evaluation"
    """It waits for the answers of held-out groups."""
    OTHER = "other"


WAITING = (Work.PAIRS, Work.EVALUATION)
"""The ones in which it is idle."""


class WorkClock:
    """Adds up seconds by kind of work. One thread works; any may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._work, self._since_s = Work.OTHER, clock()
        self._seconds = dict.fromkeys(Work, 0.0)

    @contextmanager
    def at(self, work: Work) -> Iterator[None]:
        """Inside, time counts for `work`; behind it again for what it counted for before."""
        before = self._work
        self._switch(work)
        try:
            yield
        finally:
            self._switch(before)

    def seconds(self) -> dict[Work, float]:
        """Seconds so far, those of the present work included."""
        added = dict(self._seconds)
        added[self._work] += self._clock() - self._since_s
        return added

    def _switch(self, work: Work) -> None:
        now_s = self._clock()
        self._seconds[self._work] += now_s - self._since_s
        self._work, self._since_s = work, now_s
