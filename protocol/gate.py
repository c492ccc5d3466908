"""Who may speak on a listening socket: CURVE keys, the decision on each handshake (ZAP), and a look at each message.

ZAP decides once a connection, so a key that is revoked later is caught at the message: ZeroMQ notes on every message by whose key it
came. `zmq.auth`'s authenticator takes clients without keys for welcome, does not tell whence a refused one came, and answers a key that
is not allowed for good, after which its client never asks again; so `judge` answers here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from protocol import logs, sockets
from protocol.errors import RbaError, UserError
from protocol.keyring import KEY_BYTES, AllowList, KeyPair, Keyring
from protocol.sockets import Context, Socket
from protocol.wakeup import Mailbox

DOMAIN = b"rba"
"""Of socket and handler alike: with two different ones every client would be refused."""
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
"""One a context, by ZeroMQ's own rule."""
ZAP_VERSION = b"1.0"
TELL_EVERY_S = 60.0
"""The same refusal of the same peer is logged this often."""
TOLD_LIMIT = 256
USER_ID = "User-Id"
_WATCHED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Refusal(StrEnum):
    """Why somebody did not get in: the values of `rba_authentication_failures_total{reason}`."""

    NO_KEYS = "no_keys"
    """A client without CURVE."""
    WRONG_SERVER_KEY = "wrong_server_key"
    """It takes another key for the server's, or forged its own."""
    UNKNOWN_KEY = "unknown_key"
    WRONG_DOMAIN = "wrong_domain"
    MALFORMED = "malformed"
    BROKEN_OFF = "broken_off"
    """It left, or said nothing sensible, before the handshake was over."""
    REVOKED = "revoked"
    """A message of a key that is no longer allowed."""


_BY_ERROR = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: Refusal.NO_KEYS,
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: Refusal.WRONG_SERVER_KEY,
}


class RevokedError(RbaError):
    """A message came from a key that is not allowed any more."""

    def __init__(self, peer: bytes) -> None:
        super().__init__("the key of this peer is no longer allowed")
        self.peer = peer


@dataclass(frozen=True)
class Door:
    """What a gate is made of."""

    socket: str
    """What the socket is called in logs and metrics: pairs, weights or fetcher."""
    keys: KeyPair
    name_of: Callable[[str], str | None]
    """The name that a public key is allowed under; None when it is not."""
    count: Callable[[str], None] = lambda _: None
    """Called with the reason of each refusal, from any thread."""


def server_door(keys: Keyring, socket: str, count: Callable[[str], None]) -> Door:
    """The door of a socket on the learner's machine: everybody on the allow-list may enter."""
    return Door(socket, keys.pair("server"), AllowList(keys).name_of, count)


def neighbour_door(keys: Keyring, socket: str, count: Callable[[str], None]) -> Door:
    """The door of a socket for this machine alone: who holds the machine's own secret may enter."""
    own = keys.pair("actor")
    return Door(socket, own, {own.public: "this machine"}.get, count)


@dataclass(frozen=True)
class Verdict:
    """The answer to one handshake."""

    status: bytes
    text: bytes
    user_id: bytes = b""
    refusal: Refusal | None = None
    key: str = ""
    address: str = ""


def judge(request: Sequence[bytes], name_of: Callable[[str], str | None]) -> Verdict:
    """What to answer to a ZAP request (version, request id, domain, address, identity, mechanism, credentials)."""
    address = request[3].decode("ascii", "replace").removeprefix("::ffff:") if len(request) > 3 else ""
    if len(request) != 7 or request[0] != ZAP_VERSION or request[5] != b"CURVE" or len(request[6]) != KEY_BYTES:
        return Verdict(b"400", b"malformed", refusal=Refusal.MALFORMED, address=address)
    if request[2] != DOMAIN:
        return Verdict(b"400", b"wrong domain", refusal=Refusal.WRONG_DOMAIN, address=address)
    key = z85.encode(request[6]).decode("ascii")
    if name_of(key) is None:
        # "Not now": the client goes on asking, so a key that is allowed a little later needs no restart. 400 would silence it for good.
        return Verdict(b"300", b"key not allowed", refusal=Refusal.UNKNOWN_KEY, key=key, address=address)
    return Verdict(b"200", b"OK", user_id=key.encode("ascii"), key=key, address=address)


class Gate:
    """Guards one listening socket of a context, with a thread of its own that answers handshakes.

    `guard` comes before the socket binds; `receive` and `close` belong to the socket's owner.
    """

    def __init__(self, context: Context, door: Door) -> None:
        self._door = door
        self._log = logs.get_logger("gate")
        self._told: dict[tuple[Refusal, str], float] = {}
        self._lock = threading.Lock()
        self._guarded: Socket | None = None
        self._zap: Socket = context.socket(zmq.REP)
        self._zap.bind(ZAP_ENDPOINT)
        self._monitor = f"inproc://monitor-{id(self)}"
        self._events: Socket = context.socket(zmq.PAIR)
        # ZeroMQ's own thread, which carries all data, waits where this queue is full or its reader gone.
        self._events.setsockopt(zmq.RCVHWM, 0)
        self._events.connect(self._monitor)
        self._mailbox: Mailbox[None] = Mailbox(context)
        self._thread = threading.Thread(target=self._run, name=f"gate of {door.socket}", daemon=True)
        self._thread.start()

    def guard(self, socket: Socket) -> None:
        """Give the socket the server's keys, and no way in but through the handler."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._door.keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        # Without it, a handshake that finds no handler would be let in, whatever its key.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.monitor(self._monitor, _WATCHED)
        self._guarded = socket

    def receive(self, socket: Socket) -> list[bytes]:
        """The next message, without waiting. Raises `zmq.Again`, and `RevokedError` instead of a message that nobody may read."""
        frames = socket.recv_multipart(flags=zmq.DONTWAIT, copy=False)
        key = _user_id(frames[-1])
        if self._door.name_of(key) is None:
            self._refuse(Refusal.REVOKED, key)
            raise RevokedError(frames[0].bytes)
        return [frame.bytes for frame in frames]

    def close(self, linger_ms: int = 0) -> None:
        """Close the guarded socket, then the gate; never the other way round."""
        if self._guarded is not None:
            if not self._guarded.closed:
                self._guarded.monitor(None, 0)
                self._guarded.close(linger=linger_ms)
            self._guarded = None
        self._mailbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        """Consumes: handshakes, failures that ZeroMQ reports. Produces: verdicts, counts, log lines. Waits for: either.
        Unblocked by: either, or `close`.
        """
        poller = zmq.Poller()
        for socket in (self._zap, self._events, self._mailbox.socket):
            poller.register(socket, zmq.POLLIN)
        while not self._mailbox.take():
            ready = dict(poller.poll())
            if self._zap in ready:
                self._answer(self._zap.recv_multipart())
            if self._events in ready:
                self._observe(recv_monitor_message(self._events))
        with suppress(zmq.ZMQError):  # where the context ends, it has let go of it already
            self._zap.unbind(ZAP_ENDPOINT)  # a closed socket keeps its place for as long as ZeroMQ's threads need
        for socket in (self._zap, self._events):
            socket.close(linger=0)
        self._mailbox.close()

    def _answer(self, request: list[bytes]) -> None:
        try:
            verdict = judge(request, self._door.name_of)
        except Exception:  # noqa: BLE001 - without an answer no later handshake would be judged
            self._log.exception("a handshake could not be judged", socket=self._door.socket)
            verdict = Verdict(b"300", b"internal error", refusal=Refusal.MALFORMED)
        request_id = request[1] if len(request) > 1 else b""
        self._zap.send_multipart([ZAP_VERSION, request_id, verdict.status, verdict.text, verdict.user_id, b""])
        if verdict.refusal is not None:
            self._refuse(verdict.refusal, verdict.key, verdict.address)

    def _observe(self, event: Mapping[str, Any]) -> None:
        known = _BY_ERROR.get(event["value"], Refusal.MALFORMED)
        self._refuse(known if event["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else Refusal.BROKEN_OFF)

    def _refuse(self, refusal: Refusal, key: str = "", address: str = "") -> None:
        """Count it; log it unless the same was logged a moment ago."""
        self._door.count(refusal.value)
        now_s = time.monotonic()
        with self._lock:
            told_s = self._told.pop((refusal, key), float("-inf"))
            again = now_s - told_s < TELL_EVERY_S
            self._told[refusal, key] = told_s if again else now_s
            if len(self._told) > TOLD_LIMIT:
                del self._told[next(iter(self._told))]
        if not again:
            self._log.warning("peer refused", socket=self._door.socket, reason=refusal.value, key=key or None, address=address or None)


def listen(context: Context, bind: str, port: int, cap_bytes: int, what: str, door: Door | None) -> tuple[Socket, str, Gate | None]:
    """A listening ROUTER, its endpoint, and its gate where there is a `door` (see `protocol.sockets.router`)."""
    if door is None:
        return *sockets.router(context, bind, port, cap_bytes, what), None
    gate = Gate(context, door)
    try:
        return *sockets.router(context, bind, port, cap_bytes, what, gate.guard), gate
    except UserError:
        gate.close()
        raise


def receive(socket: Socket, gate: Gate | None) -> list[bytes]:
    """The next message, without waiting. Raises `zmq.Again`, and `RevokedError` (see `Gate.receive`)."""
    return gate.receive(socket) if gate is not None else socket.recv_multipart(flags=zmq.DONTWAIT)


def _user_id(frame: zmq.Frame) -> str:
    try:
        return str(frame.get(USER_ID))
    except zmq.ZMQError:
        return ""  # it came by no handshake
