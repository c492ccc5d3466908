"""The learner's side of the lease dialogue. Pure: events in, actions out.

    Offer ──▶ offered ──grant──▶ open lease ──first outcome──▶ settled
                 ▲                    │
                 └──── expired ◀──────┘  deadline passed, or its actor fell silent, left, or came back without it

Guarantees: an ordinal is settled once; every later result of it is a counted duplicate; a message of results is acknowledged only
after `Settled`; what is granted again has a higher lease epoch. The first outcome of an ordinal counts, whichever life of the learner
leased it: the ordinals that earlier lives have given out are wanted from the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from protocol.codec import PROTOCOL
from protocol.dialogue.departed import Departed, Mail
from protocol.dialogue.learner_events import (
    Action,
    ActorSaid,
    Closing,
    Event,
    Intake,
    Log,
    Offer,
    Published,
    Send,
    Settled,
    Tick,
    Undelivered,
)
from protocol.dialogue.leaseholder import Actor, OpenLease
from protocol.dialogue.sequences import SequenceSet
from protocol.dialogue.sharing import shares
from protocol.ledger import Ledger
from protocol.messages import (
    Ack,
    Bye,
    GroupResult,
    GroupResults,
    Heartbeat,
    Hello,
    Lease,
    LeasedGroup,
    PolicyVersion,
    Refused,
    Welcome,
)

SILENT_HEARTBEATS = 3
"""An actor that misses this many heartbeats has lost its leases."""
INTERVALS = 1024
"""Gaps in the sequence of one actor's messages; more have no cause but malice."""


class LearnerDialogue:
    """See the module's text."""

    def __init__(
        self,
        run_id: str,
        boot_id: str,
        version: PolicyVersion,
        heartbeat_s: float = 2.0,
        lease_deadline_s: float = 300.0,
        *,
        ledger: Ledger | None = None,
        settled: SequenceSet | None = None,
        wanted: Iterable[LeasedGroup] = (),
    ) -> None:
        """`ledger`, `settled` (ordinals that have their outcome) and `wanted` are those of the run's earlier lives."""
        self.run_id, self.boot_id, self.version = run_id, boot_id, version
        self.heartbeat_s, self.lease_deadline_s = heartbeat_s, lease_deadline_s
        self.ledger = ledger or Ledger()
        self.actors: dict[str, Actor] = {}
        self._at: dict[bytes, Actor] = {}
        """The registered actors by the peer that they speak from."""
        self.offered: deque[LeasedGroup] = deque()
        self.open: dict[int, OpenLease] = {}
        self.wanted = {leased.ordinal: leased for leased in wanted}
        """What was offered, or leased in an earlier life, and has no outcome yet, by ordinal."""
        self.settled = settled or SequenceSet()
        self.departed = Departed()
        self._closing = False

    def handle(self, event: Event) -> list[Action]:
        """What to do about `event`."""
        match event:
            case ActorSaid():
                return self._heard(event)
            case Offer():
                self._offer(event)
                return self._grant(event.now_s)
            case Published():
                self.version = max(self.version, event.version)
                # A hint, so that nobody waits for the next heartbeat; a lost one is harmless.
                return [Send(actor.peer, Heartbeat(self.version)) for actor in self.actors.values()]
            case Settled():
                return self._acknowledge(event)
            case Tick():
                return self._tick(event.now_s)
            case Undelivered():
                actor = self._at.get(event.peer)
                if actor is None or actor.registered_s > event.now_s:  # it has left by itself, or is back
                    return []
                return [Log("actor unreachable", actor.actor_id), *self._remove(actor, event.now_s)]
            case Closing():
                self._closing = True
                for ordinal in list(self.open):
                    self._expire(ordinal)  # nobody works on it any more; what still comes is taken in all the same
                return [Send(actor.peer, Bye(event.reason)) for actor in self.actors.values()]

    # --- what actors say ---

    def _heard(self, event: ActorSaid) -> list[Action]:
        message = event.message
        if isinstance(message, Hello):
            return self._hello(event.peer, message, event.now_s)
        actor = self._at.get(event.peer)
        if actor is None:
            if isinstance(message, GroupResults):
                for result in message.results:
                    self.ledger.reject(result, "unregistered")
            # Silence makes it say Hello again, which tells it the learner's boot id; then it sends its results again.
            return [Log("message of an unregistered actor", "", type(message).__name__)]
        actor.last_heard_s = event.now_s
        match message:
            case GroupResults():
                return self._results(actor, message, event.now_s)
            case Heartbeat():
                actor.applied = message.policy_version or actor.applied
                actor.generated_tokens = message.generated_tokens
                return self._resize(actor, message.capacity_groups, event.now_s)
            case Bye():
                return [Log("actor left", actor.actor_id, message.reason), *self._remove(actor, event.now_s)]

    def _resize(self, actor: Actor, capacity_groups: int | None, now_s: float) -> list[Action]:
        """An actor that can hold more is granted more; one that can hold less keeps what it has."""
        if capacity_groups is None or capacity_groups == actor.capacity_groups:
            return []
        detail = f"{actor.capacity_groups} to {capacity_groups} groups"
        actor.capacity_groups = capacity_groups
        return [Log("actor resized", actor.actor_id, detail), *self._grant(now_s)]

    def _hello(self, peer: bytes, hello: Hello, now_s: float) -> list[Action]:
        if hello.protocol[0] != PROTOCOL[0]:
            theirs, ours = (".".join(map(str, version)) for version in (hello.protocol, PROTOCOL))
            reason = f"the actor speaks protocol {theirs}, the learner {ours}; use one rba version"
            return [Send(peer, Refused(reason)), Log("actor refused", hello.actor_id, reason)]
        known, here = self.actors.get(hello.actor_id), self._at.get(peer)
        mail = known.mail if known is not None else self.departed.get(hello.actor_id)
        if mail is not None and hello.incarnation < mail.incarnation:
            reason = f"incarnation {mail.incarnation} of {hello.actor_id} is registered, this one is {hello.incarnation}"
            return [Send(peer, Refused(reason)), Log("actor refused", hello.actor_id, reason)]
        if mail is not None and mail.incarnation == hello.incarnation and mail.process != (hello.host, hello.pid):
            # Both number their messages from 0: what one sends would be taken for what the other has sent, and be acknowledged.
            host, pid = mail.process
            reason = f"process {pid} on {host} is {hello.actor_id} already, in the same incarnation, {hello.incarnation}"
            return [Send(peer, Refused(reason)), Log("actor refused", hello.actor_id, reason)]
        actions: list[Action] = []
        if here is not None and here is not known:
            actions += self._remove(here, now_s)  # a connection speaks for one actor
        held: set[int] = set()
        if known is not None:
            if known.incarnation == hello.incarnation:
                held = {ordinal for ordinal, epoch in hello.held if self._holds(hello.actor_id, ordinal, epoch)}
            actions += self._remove(known, now_s, keep=held)
        mail = self.departed.take(hello.actor_id)
        if mail is None or mail.incarnation != hello.incarnation:
            mail = Mail(hello.incarnation, (hello.host, hello.pid))
        mail.received.fill(hello.done_below)
        mail.acknowledged.fill(hello.done_below)
        begun = frozenset(ordinal for ordinal, _ in hello.held) - held
        actor = Actor(
            hello.actor_id,
            mail,
            peer,
            hello.capacity_groups,
            now_s,
            now_s,
            now_s,
            hello.host,
            hello.pid,
            hello.engine,
            held=held,
            begun=begun,
        )
        self.actors[hello.actor_id] = self._at[peer] = actor
        if self._closing:
            return [*actions, Send(peer, Bye("the run has ended"))]
        welcome = Welcome(self.run_id, self.boot_id, self.version, self.heartbeat_s, PROTOCOL)
        event = "actor registered" if hello.capacity_groups else "actor takes no more groups"
        return [*actions, Send(peer, welcome), Log(event, hello.actor_id, hello.engine), *self._grant(now_s)]

    def _holds(self, actor_id: str, ordinal: int, epoch: int) -> bool:
        lease = self.open.get(ordinal)
        return lease is not None and lease.actor_id == actor_id and lease.leased.lease_epoch == epoch

    def _results(self, actor: Actor, message: GroupResults, now_s: float) -> list[Action]:
        if message.actor_id != actor.actor_id or message.incarnation != actor.incarnation:
            for result in message.results:
                self.ledger.reject(result, "foreign")
            return [Log("results under another actor's name", actor.actor_id, message.actor_id)]
        if actor.mail.received.intervals >= INTERVALS and message.sequence not in actor.mail.received:
            for result in message.results:
                self.ledger.reject(result, "scattered")
            return [Log("messages out of any order", actor.actor_id)]
        if not actor.mail.received.add(message.sequence):
            for result in message.results:
                self.ledger.repeat(result)
            known = message.sequence in actor.mail.acknowledged
            return [Send(actor.peer, Ack(actor.incarnation, message.sequence, self.version))] if known else []
        first = [result for result in message.results if self._enter(result)]
        return [Intake(actor.actor_id, actor.incarnation, message.sequence, first), *self._grant(now_s)]

    def _enter(self, result: GroupResult) -> bool:
        """Count one result; True when it is the first outcome of its ordinal."""
        if result.ordinal in self.settled:
            self.ledger.repeat(result)
            return False
        wanted = self.wanted.get(result.ordinal)
        if wanted is None:
            self.ledger.reject(result, "unknown_ordinal")
            return False
        if (wanted.group.group_id, wanted.purpose) != (result.group_id, result.purpose):
            self.ledger.reject(result, "other_group")  # of a journal that was lost, or of another run
            return False
        self.ledger.enter(result)
        self.settled.add(result.ordinal)
        del self.wanted[result.ordinal]
        lease = self.open.pop(result.ordinal, None)
        if lease is None:
            self.offered = deque(waiting for waiting in self.offered if waiting.ordinal != result.ordinal)
        else:
            self._close_lease(lease)
            self.ledger.settled += 1
        return True

    def _acknowledge(self, event: Settled) -> list[Action]:
        actor = self.actors.get(event.actor_id)
        mail = actor.mail if actor is not None else self.departed.get(event.actor_id)
        if mail is None or mail.incarnation != event.incarnation:
            return []
        mail.acknowledged.add(event.sequence)
        return [Send(actor.peer, Ack(event.incarnation, event.sequence, self.version))] if actor is not None else []

    # --- leases ---

    def _offer(self, offer: Offer) -> None:
        """A result of an earlier life's lease may have come before its ordinal is offered."""
        for leased in offer.groups:
            if leased.ordinal not in self.settled:
                self.wanted[leased.ordinal] = leased
                self.offered.append(leased)
        for ordinal in offer.passed:
            self.settled.add(ordinal)
            self.wanted.pop(ordinal, None)

    def _grant(self, now_s: float) -> list[Action]:
        """Lease what is offered, as far as the actors have room."""
        if self._closing:
            return []
        grants: dict[str, list[LeasedGroup]] = {}
        for actor, leased in shares(self.offered, self.actors.values()):
            actor.begun -= {leased.ordinal}
            actor.held.add(leased.ordinal)
            self.open[leased.ordinal] = OpenLease(leased, actor.actor_id, now_s + self.lease_deadline_s)
            self.ledger.leased += 1
            self.ledger.outstanding += 1
            grants.setdefault(actor.actor_id, []).append(leased)
        return [Send(self.actors[name].peer, Lease(groups, self.version, self.lease_deadline_s)) for name, groups in grants.items()]

    def _close_lease(self, lease: OpenLease) -> None:
        self.ledger.outstanding -= 1
        holder = self.actors.get(lease.actor_id)
        if holder is not None:
            holder.held.discard(lease.leased.ordinal)

    def _expire(self, ordinal: int) -> None:
        """A lease ends without an outcome; its group is offered again, before all others, with a higher epoch."""
        lease = self.open.pop(ordinal)
        self._close_lease(lease)
        self.ledger.expired += 1
        self.offered.appendleft(msgspec.structs.replace(lease.leased, lease_epoch=lease.leased.lease_epoch + 1))

    def _remove(self, actor: Actor, now_s: float, keep: set[int] | None = None) -> list[Action]:
        """Forget an actor; its leases expire but for those in `keep`."""
        del self.actors[actor.actor_id], self._at[actor.peer]
        self.departed.put(actor.actor_id, actor.mail)
        for ordinal in sorted(actor.held - (keep or set()), reverse=True):
            self._expire(ordinal)
        return self._grant(now_s)

    def _tick(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for actor in list(self.actors.values()):
            silent_s = now_s - actor.last_heard_s
            if silent_s > SILENT_HEARTBEATS * self.heartbeat_s:
                actions += [Log("actor silent", actor.actor_id, f"{silent_s:.1f} s"), *self._remove(actor, now_s)]
            elif now_s - actor.last_sent_s >= self.heartbeat_s:
                actor.last_sent_s = now_s
                actions.append(Send(actor.peer, Heartbeat(self.version)))
        late = [ordinal for ordinal, lease in self.open.items() if now_s > lease.deadline_s]
        for ordinal in late:
            actions.append(Log("lease expired", self.open[ordinal].actor_id, f"ordinal {ordinal}"))
            self._expire(ordinal)
        return actions + self._grant(now_s)
