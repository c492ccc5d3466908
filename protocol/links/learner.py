"""The learner's end of the link: a ROUTER and its thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from protocol import logs, sockets
from protocol.codec import ACTOR_CODEC, DIALOGUE_CAP_BYTES, OtherVersionError, encode
from protocol.dialogue import learner_events as learning
from protocol.dialogue.learner import LearnerDialogue
from protocol.dialogue.learner_events import Intake
from protocol.dialogue.leaseholder import Actor
from protocol.errors import ProtocolError, UserError
from protocol.gate import Door, Gate, RevokedError, listen, receive
from protocol.ledger import Ledger
from protocol.links.loop import CLOSE_S, LINGER_MS, TICK_MS, Loop
from protocol.links.portions import portions
from protocol.messages import Bye, Heartbeat, Lease, LeasedGroup, PolicyVersion, Refused
from protocol.wakeup import Mailbox

FAREWELL_MS = 200
"""The learner goes on reading for so long after its Bye: a TCP connection that is closed with unread bytes is reset, and the Bye lost."""


class LearnerLink(Loop):
    """The learner's end. Every method is thread-safe.

    `intakes` yields what came in for the first time; the learner settles each, which acknowledges it. None in it means that the
    link ended.
    """

    def __init__(
        self, bind: str, port: int, dialogue: LearnerDialogue, door: Door | None = None, refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """Raises `UserError` when the port cannot be had. Without a `door` anybody who reaches the port is an actor.

        `refused` is called with the reason of each message that is none, by the link's thread.
        """
        super().__init__("learner link")
        self.intakes: queue.Queue[Intake | None] = queue.Queue()
        self._dialogue = dialogue
        self._log, self._refused = logs.Sparing(logs.get_logger("link")), refused
        self._mailbox: Mailbox[learning.Event] = Mailbox(self.context)
        self._gate: Gate | None = None
        try:
            self._socket, self.endpoint, self._gate = listen(self.context, bind, port, DIALOGUE_CAP_BYTES, "network.pairs_port", door)
        except UserError:
            self._release()
            raise
        self._undelivered: list[learning.Event] = []
        self._lock = threading.Lock()
        """Of the dialogue's state: the thread changes it, anybody may look."""

    def offer(self, groups: Sequence[LeasedGroup], passed: Sequence[int] = ()) -> None:
        """Groups that may be leased now, each of which fits into a message, and ordinals that nobody is asked for."""
        self._mailbox.put(learning.Offer(groups, time.monotonic(), passed))

    def publish(self, version: PolicyVersion) -> None:
        """A newer version is served; actors hear of it with their next message."""
        self._mailbox.put(learning.Published(version))

    def settle(self, intake: Intake) -> None:
        """`intake` is safe with the learner: acknowledge it."""
        self._mailbox.put(learning.Settled(intake.actor_id, intake.incarnation, intake.sequence))

    def status(self) -> dict[str, Any]:
        """Registered actors and what is out: ``{"actors": [...], "offered", "outstanding", "ledger"}``."""
        now_s, dialogue = time.monotonic(), self._dialogue
        with self._lock:
            return {
                "actors": [_figures(actor, now_s) for actor in dialogue.actors.values()],
                "offered": len(dialogue.offered),
                "outstanding": len(dialogue.open),
                "ledger": dialogue.ledger.as_dict(),
            }

    def ledger(self) -> Ledger:
        """The link's share of the ledger: leases, and results received, unique, duplicate, rejected. It counts whatever `intakes` has."""
        with self._lock:
            return self._dialogue.ledger.copy()

    def close(self, reason: str) -> None:
        """Say Bye to every actor and end the thread."""
        self._mailbox.put(learning.Closing(reason))
        self.join(CLOSE_S)

    def abandon(self) -> None:
        """End the thread without a word: the actors wait for the learner to come back."""
        self._stop.set()
        self.join(CLOSE_S)

    def _run(self) -> None:
        """Consumes: actors' messages, the mailbox. Produces: intakes, leases, acks. Waits for: either. Unblocked by: either, or a tick."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        ticked_s = time.monotonic()
        ends_s: float | None = None
        while not self._stop.is_set():
            poller.poll(0 if self._undelivered else TICK_MS if ends_s is None else FAREWELL_MS)
            events = self._mailbox.take()
            self._act(events)
            undelivered, self._undelivered = self._undelivered, []
            if self._receive():
                self._act(undelivered)  # who has gone may have said so, and sent its last results
            else:
                self._undelivered += undelivered
            now_s = time.monotonic()
            if now_s - ticked_s >= TICK_MS / 1000:
                ticked_s = now_s
                self._act([learning.Tick(now_s)])
            if ends_s is None and any(isinstance(event, learning.Closing) for event in events):
                ends_s = now_s + FAREWELL_MS / 1000
            if ends_s is not None and now_s >= ends_s:
                return

    def _receive(self) -> bool:
        """True when nothing is left to read."""
        for _ in range(256):  # then the mailbox has its turn
            try:
                peer, *frames = receive(self._socket, self._gate)
            except zmq.Again:
                return True
            except RevokedError as revoked:
                # As if it had left: others get its leases at once, and it hears no more.
                sockets.send(self._socket, [revoked.peer, *encode(Refused(str(revoked)))])
                self._act([learning.ActorSaid(revoked.peer, Bye(str(revoked)), time.monotonic())])
                continue
            try:
                message, _ = ACTOR_CODEC.decode(frames)
            except ProtocolError as error:
                self._refused(error.reason)
                self._log.warning("message refused", error=str(error), kind=type(error).__name__)
                if isinstance(error, OtherVersionError):
                    sockets.send(self._socket, [peer, *encode(Refused(str(error)))])
                continue
            self._act([learning.ActorSaid(peer, message, time.monotonic())])
        return False

    def _act(self, events: Sequence[learning.Event]) -> None:
        for event in events:
            with self._lock:
                actions = self._dialogue.handle(event)
            for action in actions:
                match action:
                    case learning.Send(peer, Lease() as lease):
                        if not all(sockets.send(self._socket, [peer, *encode(part)]) for part in split(lease)):
                            self._undelivered.append(learning.Undelivered(peer, time.monotonic()))
                    case learning.Send():
                        sent = sockets.send(self._socket, [action.peer, *encode(action.message)])
                        if not sent and isinstance(action.message, Heartbeat):
                            self._undelivered.append(learning.Undelivered(action.peer, time.monotonic()))
                    case learning.Intake():
                        self.intakes.put(action)
                    case learning.Log():
                        self._log.info(action.event, actor=action.actor_id, detail=action.detail)

    def _on_end(self) -> None:
        if self._gate is not None:
            self._gate.close(LINGER_MS)
        self._mailbox.close()
        self.intakes.put(None)


def split(lease: Lease) -> list[Lease]:
    """In parts that each fit into one message, as every group does (`protocol.leasable`): ZeroMQ cuts off for good who is sent more."""
    sized = ((leased, len(msgspec.msgpack.encode(leased))) for leased in lease.groups)
    return [msgspec.structs.replace(lease, groups=groups) for groups in portions(sized)]


def _figures(actor: Actor, now_s: float) -> dict[str, Any]:
    return {
        "id": actor.actor_id,
        "incarnation": actor.incarnation,
        "host": actor.host,
        "pid": actor.pid,
        "engine": actor.engine,
        "policy_version": str(actor.applied) if actor.applied else None,
        "last_heartbeat_s": round(max(0.0, now_s - actor.last_heard_s), 3),
        "capacity_groups": actor.capacity_groups,
        "held_groups": len(actor.held),
        "generated_tokens": actor.generated_tokens,
    }
