"""A learner and its actors over a network that loses, doubles and reorders messages. No sockets, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.dialogue import actor_events as acting
from protocol.dialogue import learner_events as learning
from protocol.dialogue.actor import ActorDialogue
from protocol.dialogue.learner import LearnerDialogue
from protocol.dialogue.sequences import SequenceSet
from protocol.ledger import Ledger
from protocol.messages import ActorMessage, GroupResult, LearnerMessage, LeasedGroup, PolicyVersion
from tests.protocol import examples

HEARTBEAT_S = 1.0
DEADLINE_S = 20.0


@dataclass
class Node:
    """One actor's process."""

    dialogue: ActorDialogue
    working: dict[int, LeasedGroup] = field(default_factory=dict)
    """What it was granted and has not finished."""
    ended: bool = False

    @property
    def peer(self) -> bytes:
        return f"{self.dialogue.actor_id}/{self.dialogue.incarnation}".encode()


@dataclass
class Network:
    """Both ends, what travels between them, and what the learner took in."""

    learner: LearnerDialogue = field(default_factory=lambda: LearnerDialogue("run", "boot-1", PolicyVersion(0, 0), HEARTBEAT_S, DEADLINE_S))
    nodes: dict[str, Node] = field(default_factory=dict)
    to_learner: list[tuple[bytes, ActorMessage]] = field(default_factory=list)
    to_actors: list[tuple[bytes, LearnerMessage]] = field(default_factory=list)
    unsettled: list[learning.Intake] = field(default_factory=list)
    entered: list[GroupResult] = field(default_factory=list)
    """Every result that the learner took in, in order."""
    settled: set[tuple[str, int, int]] = field(default_factory=set)
    sent: list[tuple[bytes, LearnerMessage]] = field(default_factory=list)
    """All that the learner ever said."""
    notices: list[tuple[str, acting.Notice]] = field(default_factory=list)
    now_s: float = 0.0
    offered: int = 0
    life: int = 0
    owed: list[LeasedGroup] = field(default_factory=list)
    """What the learner has to offer again, since an earlier life of it did."""

    def start(self, actor_id: str, capacity: int = 2) -> Node:
        """Start an actor, or kill it and start its next incarnation."""
        old = self.nodes.get(actor_id)
        incarnation = old.dialogue.incarnation + 1 if old else 0
        node = self.nodes[actor_id] = Node(ActorDialogue(actor_id, incarnation, capacity))
        self.act(node, acting.Tick(self.now_s))
        return node

    def offer(self, count: int) -> None:
        groups = [examples.leased(self.offered + n) for n in range(count)]
        self.offered += count
        self.decide(learning.Offer(groups, self.now_s))

    def offer_again(self) -> None:
        owed, self.owed = self.owed, []
        self.decide(learning.Offer(owed, self.now_s))

    def restart_learner(self) -> None:
        """Kill it; the next life knows what was settled and what was offered, and nothing of its actors."""
        old, self.life = self.learner, self.life + 1
        lost = {result.ordinal for intake in self.unsettled for result in intake.results}
        self.unsettled = []
        self.entered = [result for result in self.entered if result.ordinal not in lost]
        unique, settled = len(self.entered), SequenceSet()
        for result in self.entered:
            settled.add(result.ordinal)
        ledger = Ledger(leased=unique, settled=unique, received=unique, unique=unique, queued=unique)
        missing = [ordinal for ordinal in range(self.offered) if ordinal not in settled]
        self.owed = [examples.leased(ordinal, self.life << 16) for ordinal in missing]
        self.learner = LearnerDialogue(
            "run", f"boot-{self.life}", old.version, HEARTBEAT_S, DEADLINE_S, ledger=ledger, settled=settled, wanted=self.owed
        )

    def finish(self, node: Node, ordinal: int) -> None:
        leased = node.working.pop(ordinal)
        self.act(node, acting.Results([examples.result(ordinal, leased.lease_epoch)], self.now_s))

    def settle(self, intake: learning.Intake) -> None:
        self.unsettled.remove(intake)
        self.settled.add((intake.actor_id, intake.incarnation, intake.sequence))
        self.decide(learning.Settled(intake.actor_id, intake.incarnation, intake.sequence))

    def decide(self, event: learning.Event) -> None:
        """Let the learner handle an event, and do what it decides."""
        for action in self.learner.handle(event):
            match action:
                case learning.Send():
                    self.sent.append((action.peer, action.message))
                    self.to_actors.append((action.peer, action.message))
                case learning.Intake():
                    self.unsettled.append(action)
                    self.entered.extend(action.results)

    def act(self, node: Node, event: acting.Event) -> None:
        """Let an actor handle an event, and do what it decides."""
        for action in node.dialogue.handle(event):
            match action:
                case acting.Send():
                    self.to_learner.append((node.peer, action.message))
                case acting.Granted():
                    node.working |= {leased.ordinal: leased for leased in action.lease.groups}
                case acting.Ended():
                    node.ended = True
            if not isinstance(action, acting.Send):
                self.notices.append((node.dialogue.actor_id, action))

    def deliver_to_learner(self, index: int = 0, *, keep: bool = False) -> None:
        peer, message = self.to_learner[index] if keep else self.to_learner.pop(index)
        self.decide(learning.ActorSaid(peer, message, self.now_s))

    def deliver_to_actors(self, index: int = 0, *, keep: bool = False) -> None:
        peer, message = self.to_actors[index] if keep else self.to_actors.pop(index)
        node = next((node for node in self.nodes.values() if node.peer == peer), None)
        if node is not None:
            self.act(node, acting.LearnerSaid(message, self.now_s))

    def wait(self, seconds: float) -> None:
        """Time passes at every end; nothing is delivered."""
        self.now_s += seconds
        self.decide(learning.Tick(self.now_s))
        for node in self.nodes.values():
            self.act(node, acting.Tick(self.now_s))

    def deliver_all(self) -> None:
        """In order, until nobody has anything to say."""
        while self.to_learner or self.to_actors:
            while self.to_learner:
                self.deliver_to_learner()
            while self.to_actors:
                self.deliver_to_actors()

    def run(self, seconds: float = 0.5, *, work: bool = True) -> None:
        """A while on a good network, in which actors finish what they hold and the learner settles what it gets."""
        self.wait(seconds)
        self.deliver_all()
        for node in self.nodes.values():
            for ordinal in list(node.working) if work else ():
                self.finish(node, ordinal)
        self.deliver_all()
        for intake in list(self.unsettled) if work else ():
            self.settle(intake)
        self.deliver_all()
