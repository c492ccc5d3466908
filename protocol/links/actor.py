"""A rollout actor's end of the link: a DEALER and its thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import zmq

from protocol import logs, sockets
from protocol.codec import DIALOGUE_CAP_BYTES, LEARNER_CODEC, OtherVersionError, encode
from protocol.dialogue import actor_events as acting
from protocol.dialogue.actor import ActorDialogue
from protocol.errors import ProtocolError
from protocol.keyring import ClientKeys
from protocol.links.loop import CLOSE_S, TICK_MS, Loop
from protocol.links.portions import PORTION_BYTES, portions
from protocol.messages import GroupResult, Outcome, PolicyVersion, Refused
from protocol.wakeup import Mailbox


class ActorLink(Loop):
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
        acknowledged: Callable[[], None] = lambda: None,
    ) -> None:
        """`acknowledged` is called by the link's thread whenever results have been."""
        super().__init__(f"link of {actor_id}")
        self._dialogue = ActorDialogue(actor_id, incarnation, capacity_groups, host, pid, engine)
        self._mailbox: Mailbox[acting.Event] = Mailbox(self.context)
        self._socket = sockets.dealer(self.context, endpoint, DIALOGUE_CAP_BYTES, f"{actor_id}/{incarnation}".encode(), keys)
        self._connections = sockets.connections(self._socket)
        self._log = logs.Sparing(logs.get_logger("link"))
        self._loop = asyncio.get_running_loop()
        self._notices: asyncio.Queue[acting.Notice] = asyncio.Queue()
        self._drained = asyncio.Event()
        self._drained.set()
        self._lock = threading.Lock()
        self._acknowledged = acknowledged
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

    def give_back(self, keep: Sequence[int]) -> None:
        """Take no more groups, and give back all but these ordinals."""
        self._mailbox.put(acting.GivingBack(frozenset(keep)))

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
        poller.register(self._connections, zmq.POLLIN)
        while not self._stop.is_set():
            poller.poll(TICK_MS)
            if sockets.reconnected(self._connections):
                self._socket.poll(TICK_MS, zmq.POLLOUT)  # else the greeting might come before the socket has noticed
                self._act([acting.Connected(time.monotonic())])
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
            waiting = len(self._dialogue.unacknowledged)
            self._act([acting.LearnerSaid(message, time.monotonic())])
            if len(self._dialogue.unacknowledged) < waiting:
                self._acknowledged()

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
        self._socket.disable_monitor()
        self._connections.close(linger=0)
        self._mailbox.close()
        self._call(self._drained.set)
        if self.failure is not None:
            self._call(self._notices.put_nowait, acting.Ended(str(self.failure)))


def split(results: list[GroupResult], cap_bytes: int = PORTION_BYTES) -> list[list[GroupResult]]:
    """Parts that each fit into one message. A result that alone does not fit goes without its completions, and says so."""
    return portions((_fitting(result, cap_bytes) for result in results), cap_bytes)


def _fitting(result: GroupResult, cap_bytes: int) -> tuple[GroupResult, int]:
    """What can be sent of a result, and its size in bytes."""
    size_bytes = len(msgspec.msgpack.encode(result))
    if size_bytes <= cap_bytes:
        return result, size_bytes
    reason = f"the result has {size_bytes} bytes, at most {cap_bytes} are sent"
    bare = msgspec.structs.replace(result, outcome=Outcome.FILTERED, reason=reason, completions=[], pairs=[], measures=None)
    return bare, len(msgspec.msgpack.encode(bare))
