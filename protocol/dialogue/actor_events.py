"""What the actor's side of the lease dialogue hears of, and what it wants done about it."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import ActorMessage, GroupResult, LearnerMessage, Lease, PolicyVersion, Welcome

# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LearnerSaid:
    """A decoded message of the learner."""

    message: LearnerMessage
    now_s: float


@dataclass(frozen=True, slots=True)
class Results:
    """Groups that have their outcome."""

    results: list[GroupResult]
    now_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the heartbeat tells from now on."""

    applied: PolicyVersion | None
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Resized:
    """The actor can hold so many groups from now on."""

    capacity_groups: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is up, for the first time or again: another learner may be at its end, and what was on its way may be lost."""

    now_s: float


@dataclass(frozen=True, slots=True)
class GivingBack:
    """The actor takes no more groups, and gives back all but these ordinals."""

    keep: frozenset[int]


@dataclass(frozen=True, slots=True)
class Leaving:
    """The actor ends."""

    reason: str


Event = LearnerSaid | Results | Report | Resized | Tick | Connected | GivingBack | Leaving

# --- actions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the learner."""

    message: ActorMessage


@dataclass(frozen=True, slots=True)
class Registered:
    """The learner knows this actor."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Granted:
    """Work: sample these groups once `lease.policy_version`, or a newer one, is applied."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class VersionKnown:
    """A newer policy version exists."""

    version: PolicyVersion


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more is wanted of this actor; `refused` when the learner would not have it at all."""

    reason: str
    refused: bool = False


Notice = Registered | Granted | VersionKnown | Ended
Action = Send | Notice
