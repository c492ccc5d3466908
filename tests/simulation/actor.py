"""A rollout actor's process: the real dialogue, and work whose outcome its seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.dialogue import actor_events as acting
from protocol.dialogue.actor import ActorDialogue
from protocol.measures import GroupMeasures
from protocol.messages import (
    REFERENCE,
    Completion,
    GroupResult,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    VersionSpan,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWER = "no " * 80
"""Long enough that a commit covers several sectors of a disk."""
PAIR = [PreferencePair(REFERENCE, 0)]
MEASURES = GroupMeasures(1, 1, [1, 0, 0, 0, 1, 0, 0, 0, 1, 1], 1.0, 1.0)


class Work:
    """A group that the actor was granted."""

    __slots__ = ("begun", "leased", "needs")

    def __init__(self, leased: LeasedGroup, needs: PolicyVersion, begun: PolicyVersion | None) -> None:
        self.leased, self.needs = leased, needs
        self.begun = begun
        """The version that its first token is sampled by; None until it may begin."""


class Process:
    """One incarnation of an actor."""

    __slots__ = ("actor_id", "applied", "dialogue", "ended", "paused", "peer", "waiting", "world")

    def __init__(self, world: World, actor_id: str, incarnation: int) -> None:
        self.world, self.actor_id = world, actor_id
        self.dialogue = ActorDialogue(actor_id, incarnation, world.plan.capacity_groups)
        self.peer = f"{actor_id}/{incarnation}".encode()
        self.applied: PolicyVersion | None = None
        self.waiting: list[Work] = []
        self.paused = False
        self.ended = False

    def act(self, event: acting.Event) -> None:
        for action in self.dialogue.handle(event):
            if isinstance(action, acting.Send):
                self.world.network.to_learner(self.peer, action.message)
            elif isinstance(action, acting.Granted):
                needs, applied = action.lease.policy_version, self.applied
                begun = applied if applied is not None and applied >= needs else None
                self.waiting += [Work(leased, needs, begun) for leased in action.lease.groups]
            elif isinstance(action, acting.Ended):
                self.ended = True

    def finish(self, index: int, *, fetch: bool, all_of_it: bool = False) -> bool:
        """End the work on one group, or on all; with `fetch` the served version is applied before. False when nothing could be done."""
        served = self.world.served
        if served is not None and (fetch or self.applied is None) and (self.applied is None or served > self.applied):
            self.applied = served
            self.dialogue.handle(acting.Report(served, 1))
        if not self.waiting or self.applied is None:
            return False
        chosen = list(self.waiting) if all_of_it else [self.waiting[index % len(self.waiting)]]
        ready = [work for work in chosen if work.begun is not None or self.applied >= work.needs]
        if not ready:
            return False
        self.waiting = [work for work in self.waiting if work not in ready]
        results = [outcome(work.leased, work.begun or self.applied) for work in ready]
        self.act(acting.Results(results, self.world.now_s))
        return True


def outcome(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    """Most groups give a pair, some tie, some cannot be used."""
    ordinal, epoch, name = leased.ordinal, leased.lease_epoch, leased.group.group_id
    if leased.purpose is Purpose.EVALUATE:
        return GroupResult(ordinal, epoch, name, Outcome.EVALUATED, Purpose.EVALUATE, measures=MEASURES)
    kind = leased.seed % 8
    if kind == 0:
        return GroupResult(ordinal, epoch, name, Outcome.FILTERED)
    completion = Completion(0, b"\x01\0\0\0", b"\0\0\0\0", ANSWER, "stop", [VersionSpan(version, 0, 1)])
    if kind == 1:
        return GroupResult(ordinal, epoch, name, Outcome.TIED, completions=[completion])
    return GroupResult(ordinal, epoch, name, Outcome.PAIRS, completions=[completion], pairs=PAIR)
