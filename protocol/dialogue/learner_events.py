"""What the learner's side of the lease dialogue hears of, and what it wants done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.messages import ActorMessage, GroupResult, LearnerMessage, LeasedGroup, PolicyVersion

# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ActorSaid:
    """A decoded message of a peer."""

    peer: bytes
    message: ActorMessage
    now_s: float


@dataclass(frozen=True, slots=True)
class Offer:
    """Groups that may be leased now."""

    groups: Sequence[LeasedGroup]
    now_s: float
    passed: Sequence[int] = ()
    """Ordinals that nobody is asked for: their groups were set aside."""


@dataclass(frozen=True, slots=True)
class Published:
    """A newer policy version is served."""

    version: PolicyVersion


@dataclass(frozen=True, slots=True)
class Settled:
    """The learner has taken in the results of this message; it may be acknowledged."""

    actor_id: str
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A lease or a heartbeat could not be sent: the peer's connection is gone."""

    peer: bytes
    now_s: float


@dataclass(frozen=True, slots=True)
class Closing:
    """The run ends."""

    reason: str


Event = ActorSaid | Offer | Published | Settled | Tick | Undelivered | Closing

# --- actions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a peer."""

    peer: bytes
    message: LearnerMessage


@dataclass(frozen=True, slots=True)
class Intake:
    """First outcomes, for the learner to take in and then to settle. May be empty: the message still wants its acknowledgement."""

    actor_id: str
    incarnation: int
    sequence: int
    results: list[GroupResult]


@dataclass(frozen=True, slots=True)
class Log:
    """Something that people should see."""

    event: str
    actor_id: str
    detail: str = ""


Action = Send | Intake | Log
