"""How many rollout actors the learner can use: a rule over what it waits for. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from configs.machines import FleetSection

REMEMBER_PAUSES = 20
"""A number of actors that was too small is not tried again for so many `autoscale_pause_s`."""


class Seen(NamedTuple):
    """How the learner and the fleet are at one moment."""

    training: bool
    """False while it starts or measures: waiting then says nothing about the actors."""
    step: int
    idle_s: float
    """Seconds that the learner has waited for results so far."""
    queued_groups: int
    present: int
    """Rollout actors that run, or are on their way."""
    running: int

    @classmethod
    def of(cls, learner: Mapping[str, Any], present: int, running: int) -> Self:
        """From the learner's status."""
        queued = int(learner.get("ledger", {}).get("queued", 0))
        return cls(
            learner.get("state") == "training", int(learner.get("step", 0)), float(learner.get("idle_s", 0.0)), queued, present, running
        )


class Autoscaler:
    """One actor more when the learner starves, one less when results pile up, and neither while the last change still works its way in.

    Between the two lies room in which nothing changes: joining wants more waiting than `learner_idle` and never a full queue,
    leaving wants less than half of it and always a full queue. A full queue does not tell that one actor less would do, so a number
    that starved the learner is not gone back to for a good while.
    """

    def __init__(self, section: FleetSection, batch_groups: int) -> None:
        self._section = section
        self._full_groups = section.queue_batches * batch_groups
        self._seen: deque[tuple[float, Seen]] = deque()
        self._changed_s = float("-inf")
        self._starved_s: dict[int, float] = {}
        """When each number of actors was last too small."""

    def decide(self, now_s: float, seen: Seen) -> int | None:
        """How many actors there are to be from now on; None for as many as before."""
        section = self._section
        if not section.autoscale:
            return None
        within = min(max(seen.present, section.min_actors), section.max_actors)
        if within != seen.present:
            return self._change(now_s, within)
        if not seen.training or seen.running < seen.present or (self._seen and seen.idle_s < self._seen[-1][1].idle_s):
            self._seen.clear()  # what is asked for is not there yet, or the learner began anew
            return None
        self._seen.append((now_s, seen))
        while len(self._seen) > 1 and now_s - self._seen[1][0] >= section.autoscale_window_s:
            self._seen.popleft()
        if now_s - self._seen[0][0] < section.autoscale_window_s or now_s - self._changed_s < section.autoscale_pause_s:
            return None
        idle, queued = self._idle(), [each.queued_groups for _, each in self._seen]
        if idle > section.learner_idle and max(queued) < self._full_groups and seen.present < section.max_actors:
            self._starved_s[seen.present] = now_s
            return self._change(now_s, seen.present + 1)
        fewer = seen.present - 1
        starved = now_s - self._starved_s.get(fewer, float("-inf")) < REMEMBER_PAUSES * section.autoscale_pause_s
        if idle < section.learner_idle / 2 and min(queued) >= self._full_groups and fewer >= section.min_actors and not starved:
            return self._change(now_s, fewer)
        return None

    def _idle(self) -> float:
        """Share of the window that the learner waited. Waiting counts once it is over, so a window without a step was nothing else."""
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return 1.0 if last.step == first.step else (last.idle_s - first.idle_s) / (last_s - first_s)

    def _change(self, now_s: float, actors: int) -> int:
        self._changed_s = now_s
        self._seen.clear()
        return actors
