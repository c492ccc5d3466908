"""The lease dialogue over ZeroMQ: a ROUTER at the learner, a DEALER at each rollout actor, one I/O thread each.

The dialogues decide, the threads carry: a thread owns its socket and its dialogue, and the rest of the process talks to it through
a mailbox. An error in a thread ends the link and surfaces in `raise_if_failed` and in whoever waits.
"""

from __future__ import annotations

import asyncio
import copy
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from protocol import logs, sockets
from protocol.codec import ACTOR_CODEC, DIALOGUE_CAP_BYTES, LEARNER_CODEC, OtherVersionError, encode
from protocol.dialogue import actor as acting
from protocol.dialogue import learner as learning
from protocol.dialogue.learner import Intake, LearnerDialogue
from protocol.errors import ProtocolError, RbaError, UserError
from protocol.gate import Door, Gate, RevokedError, listen, receive
from protocol.keyring import ClientKeys
from protocol.ledger import Ledger
from protocol.messages import Bye, GroupResult, Heartbeat, Lease, LeasedGroup, Outcome, PolicyVersion, Refused
from protocol.wakeup import Mailbox

TICK_MS = 200
CLOSE_S = 5.0
LINGER_MS = 200
"""Time for the last words."""
FAREWELL_MS = 200
"""The learner goes on reading for so long after its Bye: a TCP connection that is closed with unread bytes is reset, and the Bye lost."""


class LinkError(RbaError):
    """The I/O thread of a link ended with an error."""


class _Loop:
    """A thread that polls one socket and one mailbox until it is told to end."""

    def __init__(self, name: str) -> None:
        self.context: sockets.Context = zmq.Context()
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def raise_if_failed(self) -> None:
        """Raise what ended the thread."""
        if self.failure is not None:
            raise LinkError(f"{self._thread.name}: {self.failure}") from self.failure

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, which ends by what its mailbox told it; give up on a thread that does not."""
        if self._thread.ident is None:
            self._release()
            return
        self._thread.join(timeout_s)
        self._stop.set()

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - it surfaces in raise_if_failed and in on_failure
            self.failure = error
            logs.get_logger("link").error("link failed", exc_info=True)
        finally:
            self._release()

    def _release(self) -> None:
        self._on_end()
        self.context.destroy(linger=LINGER_MS)

    def _run(self) -> None:
        raise AssertionError("a link has a loop")

    def _on_end(self) -> None:
        raise AssertionError("a link has an end")


class LearnerLink(_Loop):
    """The learner's end. Every method is thread-safe.

    `intakes` yields what came in for the first time; the learner settles each, which acknowledges it. None in it means that the
    link ended.
    """

    def __init__(self, bind: str, port: int, dialogue: LearnerDialogue, door: Door | None = None) -> None:
        """Raises `UserError` when the port cannot be had. Without a `door` anybody who reaches the port is an actor."""
        super().__init__("learner link")
        self.intakes: queue.Queue[Intake | None] = queue.Queue()
        self._dialogue = dialogue
        self._log = logs.get_logger("link")
        self._mailbox: Mailbox[learning.Event] = Mailbox(self.context)
        self._gate: Gate | None = None
        try:
            self._socket, self.endpoint, self._gate = listen(self.context, bind, port, DIALOGUE_CAP_BYTES, "network.pairs_port", door)
        except UserError:
            self._release()
            raise
        self._lock = threading.Lock()
        self._status: dict[str, Any] = {}
        self._ledger = Ledger()
        self._refresh(time.monotonic())

    def offer(self, groups: Sequence[LeasedGroup]) -> None:
        """Groups that may be leased now."""
        self._mailbox.put(learning.Offer(groups, time.monotonic()))

    def publish(self, version: PolicyVersion) -> None:
        """A newer version is served; actors hear of it with their next message."""
        self._mailbox.put(learning.Published(version))

    def settle(self, intake: Intake) -> None:
        """`intake` is safe with the learner: acknowledge it."""
        self._mailbox.put(learning.Settled(intake.actor_id, intake.incarnation, intake.sequence))

    def status(self) -> dict[str, Any]:
        """Registered actors and what is out: ``{"actors": [...], "offered", "outstanding", "ledger"}``."""
        with self._lock:
            return copy.deepcopy(self._status)

    def ledger(self) -> Ledger:
        """The link's share of the ledger, as of the last event: leases, and results received, unique, duplicate, rejected."""
        with self._lock:
            return copy.deepcopy(self._ledger)

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
            poller.poll(TICK_MS if ends_s is None else FAREWELL_MS)
            events = self._mailbox.take()
            self._act(events)
            self._receive()
            now_s = time.monotonic()
            if now_s - ticked_s >= TICK_MS / 1000:
                ticked_s = now_s
                self._act([learning.Tick(now_s)])
            self._refresh(now_s)
            if ends_s is None and any(isinstance(event, learning.Closing) for event in events):
                ends_s = now_s + FAREWELL_MS / 1000
            if ends_s is not None and now_s >= ends_s:
                return

    def _receive(self) -> None:
        for _ in range(256):  # then the mailbox has its turn
            try:
                peer, *frames = receive(self._socket, self._gate)
            except zmq.Again:
                return
            except RevokedError as revoked:
                # As if it had left: others get its leases at once, and it hears no more.
                sockets.send(self._socket, [revoked.peer, *encode(Refused(str(revoked)))])
                self._act([learning.ActorSaid(revoked.peer, Bye(str(revoked)), time.monotonic())])
                continue
            try:
                message, _ = ACTOR_CODEC.decode(frames)
            except ProtocolError as error:
                self._log.warning("message refused", error=str(error), kind=type(error).__name__)
                if isinstance(error, OtherVersionError):
                    sockets.send(self._socket, [peer, *encode(Refused(str(error)))])
                continue
            self._act([learning.ActorSaid(peer, message, time.monotonic())])

    def _act(self, events: Sequence[learning.Event]) -> None:
        unsent: list[learning.Event] = []
        for event in events:
            for action in self._dialogue.handle(event):
                match action:
                    case learning.Send():
                        sent = sockets.send(self._socket, [action.peer, *encode(action.message)])
                        if not sent and isinstance(action.message, Lease | Heartbeat):
                            unsent.append(learning.Undelivered(action.peer, time.monotonic()))
                    case learning.Intake():
                        # The counts are current before the learner sees what they count.
                        self._refresh(time.monotonic())
                        self.intakes.put(action)
                    case learning.Log():
                        self._log.info(action.event, actor=action.actor_id, detail=action.detail)
        if unsent:
            self._act(unsent)

    def _refresh(self, now_s: float) -> None:
        dialogue = self._dialogue
        actors = [
            {
                "id": actor.actor_id,
                "incarnation": actor.incarnation,
                "host": actor.host,
                "pid": actor.pid,
                "engine": actor.engine,
                "policy_version": str(actor.applied) if actor.applied else None,
                "last_heartbeat_s": round(now_s - actor.last_heard_s, 3),
                "capacity_groups": actor.capacity_groups,
                "held_groups": len(actor.held),
                "generated_tokens": actor.generated_tokens,
            }
            for actor in dialogue.actors.values()
        ]
        with self._lock:
            self._ledger = copy.deepcopy(dialogue.ledger)
            self._status = {
                "actors": actors,
                "offered": len(dialogue.offered),
                "outstanding": len(dialogue.open),
                "ledger": self._ledger.as_dict(),
            }

    def _on_end(self) -> None:
        if self._gate is not None:
            self._gate.close(LINGER_MS)
        self._mailbox.close()
        self.intakes.put(None)


class ActorLink(_Loop):
    """A rollout actor's end. Made and awaited in an asyncio loop; the other methods are thread-safe."""

    def __init__(
        self,
        endpoint: str,
        actor_id: str,
        incarnation: int,
        capacity_groups: int,
        *,
        host: str = "",
        pid: int = 0,
        engine: str = "",
        keys: ClientKeys | None = None,
    ) -> None:
        super().__init__(f"link of {actor_id}")
        self._dialogue = acting.ActorDialogue(actor_id, incarnation, capacity_groups, host, pid, engine)
        self._mailbox: Mailbox[acting.Event] = Mailbox(self.context)
        self._socket = sockets.dealer(self.context, endpoint, DIALOGUE_CAP_BYTES, f"{actor_id}/{incarnation}".encode(), keys)
        self._log = logs.get_logger("link")
        self._loop = asyncio.get_running_loop()
        self._notices: asyncio.Queue[acting.Notice] = asyncio.Queue()
        self._drained = asyncio.Event()
        self._drained.set()
        self._lock = threading.Lock()
        self._sending = 0
        """Messages of results that are not acknowledged yet."""

    async def next_event(self) -> acting.Notice:
        """The next notice. Raises `LinkError` when the link ended with an error."""
        notice = await self._notices.get()
        self.raise_if_failed()
        return notice

    def send_results(self, results: list[GroupResult]) -> None:
        """Hand over outcomes; they are sent until they are acknowledged. What is too large for one message goes in several."""
        for part in split(results):
            with self._lock:
                self._sending += 1
                self._mailbox.put(acting.Results(part, time.monotonic()))
            self._call(self._drained.clear)

    def report(self, applied: PolicyVersion | None, generated_tokens: int) -> None:
        """What the next heartbeats tell."""
        self._mailbox.put(acting.Report(applied, generated_tokens))

    def resize(self, capacity_groups: int) -> None:
        """From now on the actor can hold so many groups."""
        self._mailbox.put(acting.Resized(capacity_groups))

    @property
    def unacknowledged(self) -> int:
        """Messages of results without an acknowledgement."""
        with self._lock:
            return self._sending

    async def drained(self, timeout_s: float) -> bool:
        """Wait until every result is acknowledged; False when that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.unacknowledged:
                    self.raise_if_failed()
                    await self._drained.wait()
                    if self.unacknowledged and self.failure is None:
                        self._drained.clear()
        except TimeoutError:
            return False
        return True

    def close(self, reason: str = "") -> None:
        """Say Bye and end the thread."""
        self._mailbox.put(acting.Leaving(reason))
        self.join(CLOSE_S)

    def _run(self) -> None:
        """Consumes: the learner's messages, the mailbox. Produces: notices, results, heartbeats. Waits for: either. Unblocked by: either,
        or a tick.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        # Nothing is queued for a connection that is not up, so the first greeting waits for it.
        self._socket.poll(TICK_MS, zmq.POLLOUT)
        self._act([acting.Tick(time.monotonic())])
        while not self._stop.is_set():
            poller.poll(TICK_MS)
            events = self._mailbox.take()
            self._act(events)
            self._receive()
            self._act([acting.Tick(time.monotonic())])
            self._count()
            if any(isinstance(event, acting.Leaving) for event in events):
                return

    def _receive(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(flags=zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                message, _ = LEARNER_CODEC.decode(frames)
            except OtherVersionError as error:
                message = Refused(str(error))
            except ProtocolError as error:
                self._log.warning("message refused", error=str(error), kind=type(error).__name__)
                continue
            self._act([acting.LearnerSaid(message, time.monotonic())])

    def _act(self, events: Sequence[acting.Event]) -> None:
        for event in events:
            for action in self._dialogue.handle(event):
                if isinstance(action, acting.Send):
                    sockets.send(self._socket, encode(action.message))
                else:
                    self._call(self._notices.put_nowait, action)

    def _count(self) -> None:
        with self._lock:
            self._sending = len(self._dialogue.unacknowledged) + self._mailbox.waiting(acting.Results)
            drained = self._sending == 0
        if drained:
            self._call(self._drained.set)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_end(self) -> None:
        self._mailbox.close()
        self._call(self._drained.set)
        if self.failure is not None:
            self._call(self._notices.put_nowait, acting.Ended(str(self.failure)))


def split(results: list[GroupResult], cap_bytes: int = DIALOGUE_CAP_BYTES // 2) -> list[list[GroupResult]]:
    """Parts that each fit into one message. A result that alone does not fit goes without its completions, and says so."""
    parts: list[list[GroupResult]] = []
    room = 0
    for whole in results:
        result, size = whole, len(msgspec.msgpack.encode(whole))
        if size > cap_bytes:
            reason = f"the result has {size} bytes, at most {cap_bytes} are sent"
            result = msgspec.structs.replace(whole, outcome=Outcome.FILTERED, reason=reason, completions=[], pairs=[], measures=None)
            size = len(msgspec.msgpack.encode(result))
        if not parts or size > room:
            parts.append([])
            room = cap_bytes
        parts[-1].append(result)
        room -= size
    return parts
