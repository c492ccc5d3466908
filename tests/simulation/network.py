"""Messages under way, and the learner's end of the link without its thread."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from protocol.codec import ACTOR_CODEC, LEARNER_CODEC, encode
from protocol.dialogue import learner_events as learning
from protocol.dialogue.learner import LearnerDialogue
from protocol.ledger import Ledger
from protocol.messages import Ack, ActorMessage, LearnerMessage, Lease, LeasedGroup, PolicyVersion

if TYPE_CHECKING:
    from tests.simulation.world import World


class Network:
    """What travels between the actors and the learner, in both directions, in no order that anybody may rely on."""

    def __init__(self, *, coded: bool) -> None:
        """With `coded` every message goes through its bytes."""
        self._coded = coded
        self.up: list[tuple[bytes, ActorMessage]] = []
        self.down: list[tuple[bytes, LearnerMessage]] = []
        self.cut_up: set[bytes] = set()
        """Peers whose words do not reach the learner."""
        self.cut_down: set[bytes] = set()
        """Peers that the learner's words do not reach."""

    def to_learner(self, peer: bytes, message: ActorMessage) -> None:
        if peer not in self.cut_up:
            self.up.append((peer, ACTOR_CODEC.decode(encode(message))[0] if self._coded else message))

    def to_actor(self, peer: bytes, message: LearnerMessage) -> None:
        if peer not in self.cut_down:
            self.down.append((peer, LEARNER_CODEC.decode(encode(message))[0] if self._coded else message))

    def heal(self) -> None:
        self.cut_up.clear()
        self.cut_down.clear()


class Intakes(deque[learning.Intake | None]):
    """A `queue.Queue` in which nobody waits."""

    def get(self, block: bool = False, timeout: float | None = None) -> learning.Intake | None:
        if not self:
            raise queue.Empty
        return self.popleft()


class Link:
    """`protocol.links.learner.LearnerLink`, turn by turn: what the learner asks for happens at the link's next turn."""

    def __init__(self, world: World, dialogue: LearnerDialogue) -> None:
        self._world, self.dialogue = world, dialogue
        self.intakes = Intakes()
        self.mailbox: list[learning.Event] = []
        self.promised: dict[tuple[bytes, int], list[int]] = {}
        """Ordinals that the acknowledgement of a message, by peer and sequence, speaks of: those that have an outcome."""

    # --- for the exchange ---

    def offer(self, groups: Sequence[LeasedGroup], passed: Sequence[int] = ()) -> None:
        self.mailbox.append(learning.Offer(list(groups), self._world.now_s, passed))

    def publish(self, version: PolicyVersion) -> None:
        self.mailbox.append(learning.Published(version))

    def settle(self, intake: learning.Intake) -> None:
        self.mailbox.append(learning.Settled(intake.actor_id, intake.incarnation, intake.sequence))

    def ledger(self) -> Ledger:
        return self.dialogue.ledger.copy()

    def status(self) -> dict[str, Any]:
        return {"actors": list(self.dialogue.actors)}

    def raise_if_failed(self) -> None:
        pass

    def close(self, reason: str) -> None:
        self.mailbox.append(learning.Closing(reason))
        self.turn()
        self.intakes.append(None)

    # --- turns of its thread ---

    def turn(self, *messages: tuple[bytes, ActorMessage], tick: bool = False) -> None:
        now_s = self._world.now_s
        events, self.mailbox = self.mailbox, []
        for peer, message in messages:
            events.append(learning.ActorSaid(peer, message, now_s))
        if tick:
            events.append(learning.Tick(now_s))
        self._act(events)

    def _act(self, events: Iterable[learning.Event]) -> None:
        world, undelivered = self._world, []
        for event in events:
            for action in self.dialogue.handle(event):
                if isinstance(action, learning.Send):
                    peer, message = action.peer, action.message
                    if isinstance(message, Ack):
                        world.watch.acked.update(self.promised[peer, message.sequence])
                    elif isinstance(message, Lease):
                        world.watch.leased(message)
                        if world.plan.lost_peers_show and peer not in world.processes:
                            undelivered.append(learning.Undelivered(peer, world.now_s))
                            continue
                    world.network.to_actor(peer, message)
                elif isinstance(action, learning.Intake):
                    self.intakes.append(action)
                    settled = self.dialogue.settled
                    known = [result.ordinal for result in event.message.results if result.ordinal in settled]
                    self.promised[event.peer, action.sequence] = known
        if undelivered:
            self._act(undelivered)
