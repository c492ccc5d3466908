"""How long a rollout actor had nothing to sample, and why. Pure."""

from __future__ import annotations

from enum import StrEnum


class Idle(StrEnum):
    """What an actor waits for that samples nothing."""

    LEASES = "leases"
    """The learner grants nothing: it is the bottleneck, or not there."""
    WEIGHTS = "weights"
    """Leases are held, and the policy version that they ask for is not here yet."""
    AUDIO = "audio"
    """Audio is being read."""
    REWARDS = "rewards"
    """All that is held waits for scores."""
    SPARE = "spare"
    """Nothing: it is a warm spare."""


class IdleClock:
    """Adds up idle seconds by reason. Times are those of one monotonic clock."""

    def __init__(self, now_s: float, state: Idle = Idle.LEASES) -> None:
        self._since_s = self._started_s = now_s
        self._state: Idle | None = state
        self._seconds: dict[Idle, float] = dict.fromkeys(Idle, 0.0)

    def switch(self, state: Idle | None, now_s: float) -> None:
        """From now on the actor waits for `state`, or, with None, samples."""
        if self._state is not None:
            self._seconds[self._state] += now_s - self._since_s
        self._state, self._since_s = state, now_s

    @property
    def state(self) -> Idle | None:
        """What the actor waits for; None while it samples."""
        return self._state

    def seconds(self, now_s: float) -> dict[Idle, float]:
        """Idle seconds so far, by reason. Changes nothing, so any thread may ask."""
        added = dict(self._seconds)
        if (state := self._state) is not None:
            added[state] += now_s - self._since_s
        return added

    def share(self, now_s: float) -> float | None:
        """Idle seconds by all seconds so far, those as a spare left out; None for one that was never anything else."""
        seconds = self.seconds(now_s)
        spare_s = seconds.pop(Idle.SPARE)
        worked_s = now_s - self._started_s - spare_s
        return sum(seconds.values()) / worked_s if worked_s > 0 else None


def idle_state(sampling: int, reading: int, scoring: int, waiting: int, *, spare: bool = False) -> Idle | None:
    """What an actor waits for that has so many groups in each stage; `waiting` ones have leases that ask for newer weights."""
    if sampling:
        return None
    if reading:
        return Idle.AUDIO
    if waiting:
        return Idle.WEIGHTS
    if scoring:
        return Idle.REWARDS
    return Idle.SPARE if spare else Idle.LEASES
