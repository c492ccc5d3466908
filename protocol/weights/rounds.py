"""Which versions go by broadcast, and who belongs to the group that takes part. Pure: events in, actions out.

    no group ──members are settled──▶ forming ──all joined──▶ ready ◀──done──  sending
        ▲                               │                      │ └──all asked──▶  │
        └── a member came, came back, fell silent or lost its seat; the courier failed ──┘

A broadcast needs all members at once, so who asks for the newest version waits a moment for the others. Where they do not come, where
there is no group, and for a version that has been broadcast before, the answer is round 0: pull it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from protocol.messages import PolicyVersion
from protocol.weights.messages import Seat, SeatRequest

GATHER_S = 1.0
"""Who asks first waits so long for the others."""
SETTLE_S = 1.5
"""A group is formed when nobody has come or gone for so long."""
FORM_S = 90.0
"""For all to join; a courier's start takes seconds."""
STALL_S = 10.0
"""A broadcast that moves no byte for so long is given up, at either end."""
SILENT_S = 600.0
"""A member that says nothing for so long is gone; one that pulls a large version has no time to."""
MISSES = 3
"""Rounds in a row that a member may not come to; then the group is formed without it until it comes."""
FAILURES = 3
"""In a row, after which there is no group for the rest of the run."""


@dataclass(frozen=True)
class Form:
    """Start a group of so many, oneself included."""

    size: int


@dataclass(frozen=True)
class Dissolve:
    """End the group and what it is doing; the courier is needed again unless it is `for_good`."""

    reason: str
    for_good: bool


@dataclass(frozen=True)
class Tell:
    """Answer with the newest version's manifest; `round` 0: its bytes are to be pulled."""

    peer: bytes
    round: int


@dataclass(frozen=True)
class Broadcast:
    """Send the bytes of this version to the group."""

    version: PolicyVersion


Action = Form | Dissolve | Tell | Broadcast


class Rounds:
    """The weight store's view of the group. `first` numbers groups and rounds; a later store's has to be higher."""

    def __init__(self, first: int) -> None:
        self._number = first
        self._seen: dict[str, float] = {}
        """Members and when each was last heard of."""
        self._missed: Counter[str] = Counter()
        self._ranks: dict[str, int] = {}
        self._epoch = self._port = 0
        """Of the group; 0 while there is none, or it does not listen yet."""
        self._state = "none"
        self._waiting: dict[str, bytes] = {}
        self._asked: dict[str, int] = {}
        """The last question of each. One that comes again when it has been answered waits for nobody: who asked it has gone on."""
        self._since_s = self._changed_s = 0.0
        self._sent: PolicyVersion | None = None
        self._failures, self._proven = 0, False
        """Groups lost in a row; and whether this one has brought a version."""

    @property
    def state(self) -> str:
        """None | forming | ready | sending | given up."""
        return self._state

    def seat(self, member: str) -> Seat:
        """Where that member sits; epoch 0: nowhere."""
        if member in self._ranks and self._port:
            return Seat(self._epoch, self._port, self._ranks[member], len(self._ranks) + 1)
        return Seat(0, 0, 0, 0)

    # --- what members say -----------------------------------------------------------------------------------

    def heard(self, request: SeatRequest, now_s: float) -> list[Action]:
        """A member says that it is there, and in which group. Its name is its node's and a life's: ``node:life``."""
        member = request.member
        actions: list[Action] = []
        if member not in self._seen:
            for old in [each for each in self._seen if each.partition(":")[0] == member.partition(":")[0]]:
                self._forget(old)
            self._changed_s = now_s
            if self._epoch:
                actions = self._dissolve(f"{member} came")
        elif self._state in {"ready", "sending"} and member in self._ranks and request.epoch != self._epoch:
            self._changed_s = now_s
            actions = self._failed(f"{member} lost its seat")
        self._seen[member] = now_s
        return actions

    def ask(self, request: SeatRequest, peer: bytes, newest: PolicyVersion | None, now_s: float) -> list[Action]:
        """A member wants the newest version; it is told in the actions of this or a later event."""
        actions = self.heard(request, now_s)
        member = request.member
        if member not in self._ranks and self._missed[member] >= MISSES:
            self._changed_s = now_s
            actions += self._dissolve(f"{member} is back") if self._epoch else []
        self._missed[member] = 0
        told = self._asked.get(member) == request.question and member not in self._waiting
        self._asked[member] = request.question
        seated = self._state == "ready" and self._ranks.get(member) is not None and request.epoch == self._epoch
        if told or not seated or newest is None or newest == self._sent:
            return [*actions, Tell(peer, 0)]
        if not self._waiting:
            self._since_s = now_s
        self._waiting[member] = peer
        if len(self._waiting) < len(self._ranks):
            return actions
        self._number += 1
        if self._proven:
            self._failures = 0  # all have come again, so all were well after the last one
        peers, self._waiting = list(self._waiting.values()), {}
        self._sent, self._state, self._since_s = newest, "sending", now_s
        return [*actions, *(Tell(each, self._number) for each in peers), Broadcast(newest)]

    # --- what the courier says ------------------------------------------------------------------------------

    def listening(self, port: int) -> None:
        """Rank 0 can be reached."""
        self._port = port

    def joined(self) -> None:
        """All have their seats."""
        self._state = "ready"

    def moved(self, now_s: float) -> None:
        """Bytes have gone out."""
        self._since_s = now_s

    def done(self) -> None:
        """A broadcast has ended well, as far as rank 0 can tell."""
        self._state, self._proven = "ready", True

    def failed(self, reason: str, now_s: float) -> list[Action]:
        """The courier is lost, in a group or before it was in one."""
        self._changed_s = now_s
        return self._failed(reason) if self._state != "given up" else []

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> list[Action]:
        """Time passes."""
        actions: list[Action] = []
        for silent in [member for member, seen_s in self._seen.items() if now_s - seen_s > SILENT_S]:
            self._forget(silent)
            self._changed_s = now_s
            actions += self._dissolve(f"{silent} is silent") if silent in self._ranks else []
        waited_s = now_s - self._since_s
        if self._waiting and waited_s > GATHER_S:
            actions += self._without_the_absent(now_s)
        elif self._state == "sending" and waited_s > STALL_S:
            actions += self.failed("the broadcast does not move", now_s)
        elif self._state == "forming" and waited_s > FORM_S:
            actions += self.failed("not all members joined", now_s)
        elif self._state == "none" and now_s - self._changed_s > SETTLE_S:
            actions += self._form(now_s)
        return actions

    def _form(self, now_s: float) -> list[Action]:
        members = [member for member in sorted(self._seen) if self._missed[member] < MISSES]
        if not members:
            return []
        self._number += 1
        self._epoch, self._port, self._state, self._since_s = self._number, 0, "forming", now_s
        self._ranks = {member: rank for rank, member in enumerate(members, 1)}
        return [Form(len(members) + 1)]

    def _without_the_absent(self, now_s: float) -> list[Action]:
        absent = [member for member in self._ranks if member not in self._waiting]
        actions = self._let_pull()
        self._missed.update(absent)
        gone = [member for member in absent if self._missed[member] >= MISSES]
        if gone:
            self._changed_s = now_s
            actions += self._dissolve(f"{', '.join(gone)} did not come to {MISSES} rounds")
        return actions

    def _let_pull(self) -> list[Action]:
        peers, self._waiting = list(self._waiting.values()), {}
        return [Tell(peer, 0) for peer in peers]

    def _failed(self, reason: str) -> list[Action]:
        self._failures += 1
        return self._dissolve(reason)

    def _dissolve(self, reason: str) -> list[Action]:
        for_good = self._failures >= FAILURES
        self._epoch = self._port = 0
        self._ranks, self._proven = {}, False
        self._state = "given up" if for_good else "none"
        return [*self._let_pull(), Dissolve(reason, for_good)]

    def _forget(self, member: str) -> None:
        del self._seen[member]
        self._missed.pop(member, None)
        self._asked.pop(member, None)
