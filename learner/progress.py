"""What a run adds up while it trains, and its closing figures. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np


class ProgressState(msgspec.Struct):
    """What earlier lives of a run add to its figures."""

    steps: int = 0
    nonfinite: int = 0
    pushes: int = 0
    push_s: float = 0.0
    lags: dict[int, int] = {}
    idle_s: float = 0.0
    training_s: float = 0.0


class Progress:
    """Lags, waiting time and pushes from the first step to the last."""

    def __init__(self, state: ProgressState | None = None) -> None:
        state = state or ProgressState()
        self.steps, self.nonfinite = state.steps, state.nonfinite
        self.pushes, self.push_s = state.pushes, state.push_s
        self._lags: Counter[int] = Counter(state.lags)
        self._idle_s = state.idle_s
        self._earlier_s = state.training_s
        self._paused_s = 0.0
        self._first_s: float | None = None
        self._last_s = 0.0

    def state(self) -> ProgressState:
        """For a checkpoint."""
        return ProgressState(self.steps, self.nonfinite, self.pushes, self.push_s, dict(self._lags), self._idle_s, self.training_s)

    def waited(self, seconds: float) -> None:
        """The next step had to wait for pairs; what comes before the first step is the filling of the pipeline and does not count."""
        if self._first_s is not None:
            self._idle_s += seconds

    def paused(self, seconds: float) -> None:
        """Training paused on purpose, for an evaluation."""
        if self._first_s is not None:
            self._paused_s += seconds

    def stepped(self, started_s: float, ended_s: float, lags: list[int], *, applied: bool = True) -> None:
        """A step ran, on groups with pairs of these lags; `applied` is False for one without a finite loss or gradient."""
        if self._first_s is None:
            self._first_s = started_s
        self._last_s = ended_s
        self.steps += 1
        self.nonfinite += not applied
        self._lags.update(lags)

    def pushed(self, seconds: float) -> None:
        """A policy version was published."""
        self.pushes += 1
        self.push_s += seconds

    @property
    def training_s(self) -> float:
        """From the start of the first step to the end of the last, evaluations and the time between two lives left out."""
        own_s = max(0.0, self._last_s - self._first_s - self._paused_s) if self._first_s is not None else 0.0
        return self._earlier_s + own_s

    @property
    def idle_s(self) -> float:
        """Seconds that it waited for pairs so far."""
        return self._idle_s

    @property
    def idle(self) -> float:
        """Share of that time in which the learner waited for pairs."""
        return min(1.0, self._idle_s / self.training_s) if self.training_s else 0.0

    def policy_lag(self) -> dict[str, float]:
        """Mean, 95th percentile and maximum over the trained groups that had pairs, in learner steps."""
        lags = np.sort(np.fromiter(Counter(self._lags).elements(), dtype=np.int64))
        if not len(lags):
            return {"mean": 0.0, "p95": 0, "max": 0}
        return {"mean": float(lags.mean()), "p95": int(np.percentile(lags, 95, method="higher")), "max": int(lags[-1])}

    def closing(self) -> dict[str, Any]:
        """The part of the closing figures that it knows."""
        return {
            "learner_steps": self.steps,
            "nonfinite_steps": self.nonfinite,
            "pushes": self.pushes,
            "push_seconds": round(self.push_s / self.pushes, 4) if self.pushes else 0.0,
            "training_seconds": round(self.training_s, 3),
            "policy_lag": self.policy_lag(),
            "idle": {"learner": round(self.idle, 4)},
        }
