"""The rollout actor's side of the lease dialogue. Pure: events in, actions out.

Results are sent again, unchanged, until they are acknowledged: after a while without an acknowledgement, and all of them on a new
connection, or when the learner comes back with another boot id. A learner is greeted on each new connection, and when it falls silent;
one whose actor is about to leave is greeted with a capacity of 0 and what the actor still finishes, so that it leases the rest to others
and grants nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.codec import PROTOCOL
from protocol.dialogue.actor_events import (
    Action,
    Connected,
    Ended,
    Event,
    GivingBack,
    Granted,
    LearnerSaid,
    Leaving,
    Registered,
    Report,
    Resized,
    Results,
    Send,
    Tick,
    VersionKnown,
)
from protocol.messages import (
    Ack,
    Bye,
    GroupResult,
    GroupResults,
    Heartbeat,
    Hello,
    LearnerMessage,
    Lease,
    LeasedGroup,
    PolicyVersion,
    Refused,
    Welcome,
)

GREET_EVERY_S = 1.0
RESEND_AFTER_S = 5.0
RESEND_LIMIT_S = 60.0
"""The wait doubles up to this: a learner in a long step acknowledges when it is over, and should not find everything a dozen times."""
SILENT_HEARTBEATS = 3


@dataclass(slots=True)
class Unacknowledged:
    """Results on their way."""

    message: GroupResults
    sent_s: float
    wait_s: float = RESEND_AFTER_S


@dataclass(slots=True)
class ActorDialogue:
    """See the module's text."""

    actor_id: str
    incarnation: int
    capacity_groups: int
    host: str = ""
    pid: int = 0
    engine: str = ""
    registered: bool = False
    ended: bool = False
    leaving: bool = False
    boot_id: str = ""
    heartbeat_s: float = 2.0
    version: PolicyVersion | None = None
    held: dict[int, int] = field(default_factory=dict)
    """Ordinal → lease epoch of the groups that the actor works on."""
    groups: dict[int, str] = field(default_factory=dict)
    """Ordinal → id of these groups."""
    unacknowledged: dict[int, Unacknowledged] = field(default_factory=dict)
    _sequence: int = 0
    _applied: PolicyVersion | None = None
    _generated_tokens: int = 0
    _heard_s: float = float("-inf")
    _greeted_s: float = float("-inf")
    _beat_s: float = float("-inf")

    def handle(self, event: Event) -> list[Action]:
        """What to do about `event`."""
        match event:
            case LearnerSaid():
                self._heard_s = event.now_s
                return [] if self.ended else self._heard(event.message, event.now_s)
            case Results():
                return self._results(event.results, event.now_s)
            case Report():
                self._applied, self._generated_tokens = event.applied, event.generated_tokens
                return []
            case Resized():
                return self._resize(event.capacity_groups)
            case Tick():
                return self._tick(event.now_s)
            case Connected():
                return self._connected(event.now_s)
            case GivingBack():
                self._give_back(event.keep)
                return []
            case Leaving():
                return self._leave(event.reason)

    def _heard(self, message: LearnerMessage, now_s: float) -> list[Action]:
        match message:
            case Welcome():
                return self._welcome(message, now_s)
            case Refused():
                self.ended = True
                return [Ended(message.reason, refused=True)]
            case Bye():
                self.ended, self.registered = True, False
                return [Ended(message.reason)]
            case Lease():
                fresh = [leased for leased in message.groups if self._take(leased)]
                lease = Lease(fresh, message.policy_version, message.deadline_s)
                return [*self._know(message.policy_version), *([Granted(lease)] if fresh else [])]
            case Ack():
                if message.incarnation == self.incarnation:
                    self.unacknowledged.pop(message.sequence, None)
                return self._know(message.policy_version)
            case Heartbeat():
                return self._know(message.policy_version)

    def _welcome(self, welcome: Welcome, now_s: float) -> list[Action]:
        self.registered, self.heartbeat_s = True, welcome.heartbeat_s
        self._beat_s = now_s
        again = welcome.boot_id != self.boot_id
        self.boot_id = welcome.boot_id
        actions: list[Action] = [Registered(welcome), *self._know(welcome.policy_version)]
        for waiting in self.unacknowledged.values():
            if again or waiting.sent_s == float("-inf"):
                waiting.sent_s, waiting.wait_s = now_s, RESEND_AFTER_S
                actions.append(Send(waiting.message))
        return actions

    def _leave(self, reason: str) -> list[Action]:
        """Its last word, also where a greeting is not answered yet; a greeting behind it would make the learner wait for it."""
        known, self.ended = bool(self.boot_id) and not self.ended, True
        return [Send(Bye(reason))] if known else []

    def _give_back(self, keep: frozenset[int]) -> None:
        self.capacity_groups, self.leaving = 0, True
        self.held = {ordinal: epoch for ordinal, epoch in self.held.items() if ordinal in keep}
        self.groups = {ordinal: group for ordinal, group in self.groups.items() if ordinal in keep}
        self.registered, self._greeted_s = False, float("-inf")  # the next tick greets

    def _resize(self, capacity_groups: int) -> list[Action]:
        """More room is told at once. One that has none left greets anew, so that what is on its way to it goes to others."""
        if self.leaving or capacity_groups == self.capacity_groups:
            return []
        self.capacity_groups = capacity_groups
        if not capacity_groups:
            self.registered, self._greeted_s = False, float("-inf")
        return [self._beat()] if self.registered else []

    def _take(self, leased: LeasedGroup) -> bool:
        """Note a leased group; False when the actor works on it already, or takes no more."""
        if not self.capacity_groups:
            return False
        known = leased.ordinal in self.held and self.groups.get(leased.ordinal) == leased.group.group_id
        self.groups[leased.ordinal] = leased.group.group_id
        self.held[leased.ordinal] = max(leased.lease_epoch, self.held.get(leased.ordinal, 0))
        return not known

    def _know(self, version: PolicyVersion | None) -> list[Action]:
        if version is None or (self.version is not None and version <= self.version):
            return []
        self.version = version
        return [VersionKnown(version)]

    def _results(self, results: list[GroupResult], now_s: float) -> list[Action]:
        for result in results:
            if self.groups.get(result.ordinal) == result.group_id:
                self.held.pop(result.ordinal, None)
                self.groups.pop(result.ordinal, None)
        message = GroupResults(self.actor_id, self.incarnation, self._sequence, results)
        self._sequence += 1
        self.unacknowledged[message.sequence] = Unacknowledged(message, now_s if self.registered else float("-inf"))
        return [Send(message)] if self.registered else []

    def _connected(self, now_s: float) -> list[Action]:
        self.registered, self._greeted_s = False, float("-inf")
        for waiting in self.unacknowledged.values():
            waiting.sent_s = float("-inf")
        return self._tick(now_s)

    def _tick(self, now_s: float) -> list[Action]:
        if self.ended:
            return []
        if self.registered and now_s - self._heard_s > SILENT_HEARTBEATS * self.heartbeat_s:
            self.registered = False
        if not self.registered:
            if now_s - self._greeted_s < GREET_EVERY_S:
                return []
            self._greeted_s = now_s
            held = sorted(self.held.items())
            done_below = min(self.unacknowledged, default=self._sequence)
            whoami = (self.actor_id, self.incarnation, self.capacity_groups, PROTOCOL, self.host, self.pid, self.engine)
            return [Send(Hello(*whoami, held, done_below))]
        actions: list[Action] = []
        if now_s - self._beat_s >= self.heartbeat_s:
            self._beat_s = now_s
            actions.append(self._beat())
        for waiting in self.unacknowledged.values():
            if now_s - waiting.sent_s >= waiting.wait_s:
                waiting.sent_s, waiting.wait_s = now_s, min(2 * waiting.wait_s, RESEND_LIMIT_S)
                actions.append(Send(waiting.message))
        return actions

    def _beat(self) -> Send:
        return Send(Heartbeat(self._applied, len(self.held), self._generated_tokens, self.capacity_groups))
