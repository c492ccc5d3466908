"""What the learner knows of an actor, and of a lease that is out."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.dialogue.departed import Mail
from protocol.messages import LeasedGroup, PolicyVersion


@dataclass(slots=True)
class Actor:
    """What the learner knows of one registered actor."""

    actor_id: str
    mail: Mail
    peer: bytes
    capacity_groups: int
    registered_s: float
    last_heard_s: float
    last_sent_s: float
    host: str = ""
    pid: int = 0
    engine: str = ""
    applied: PolicyVersion | None = None
    generated_tokens: int = 0
    held: set[int] = field(default_factory=set)
    """Ordinals of its open leases."""
    begun: frozenset[int] = frozenset()
    """Ordinals that it works on by leases that are over: they are granted to it rather than to others."""

    @property
    def incarnation(self) -> int:
        """Of its process."""
        return self.mail.incarnation

    @property
    def room(self) -> int:
        """Groups that may be granted to it."""
        return self.capacity_groups - len(self.held)


@dataclass(slots=True)
class OpenLease:
    """A granted lease without an outcome."""

    leased: LeasedGroup
    actor_id: str
    deadline_s: float
