"""ZeroMQ sockets as rba wants them: bounded, with heartbeats, and errors that say which port."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from protocol.errors import UserError
from protocol.keyring import ClientKeys

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 10_000
HANDSHAKE_MS = 5_000
KEEPALIVE_IDLE_S = 60
KEEPALIVE_EVERY_S = 10
KEEPALIVE_PROBES = 6
BACKLOG = 1_024
RECONNECT_MS = 100
RECONNECT_MAX_MS = 1_000
Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def _common(socket: Socket, cap_bytes: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    # Per frame, and an oversize frame disconnects its sender; the codec sums over the frames.
    socket.setsockopt(zmq.MAXMSGSIZE, cap_bytes)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_EVERY_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)


def router(
    context: Context, bind: str, port: int, cap_bytes: int, what: str, guard: Callable[[Socket], None] | None = None
) -> tuple[Socket, str]:
    """A listening ROUTER and its endpoint. Port 0 takes a free one. Raises `UserError` when the port cannot be had.

    It answers ZeroMQ's heartbeats and begins none: libzmq ends the process when one falls due on a connection that ended while its
    receive queue was full, which any peer can bring about. See docs/decisions/0014-heartbeats-of-one-side.md.

    `guard` sees the socket before it listens (see `protocol.gate.Gate.guard`).
    """
    socket = context.socket(zmq.ROUTER)
    _common(socket, cap_bytes)
    if guard is not None:
        guard(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    host = f"[{bind}]" if ":" in bind else bind
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close()
        fix = "choose another port (0 takes a free one), or end the process that has it"
        raise UserError(f"cannot listen on {bind}:{port} ({error.strerror})", where=what, fix=fix) from error
    # Under IPV6 the last endpoint of 0.0.0.0 reads [::ffff:0.0.0.0]; only its port says anything new.
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, f"tcp://{host}:{bound.rpartition(':')[2]}"


def dealer(context: Context, endpoint: str, cap_bytes: int, identity: bytes = b"", keys: ClientKeys | None = None) -> Socket:
    """A connecting DEALER. Nothing is queued for a connection that is not up. With `keys` it speaks to that server alone."""
    socket = context.socket(zmq.DEALER)
    _common(socket, cap_bytes)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public.encode("ascii"))
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode("ascii"))
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.RCVHWM, 0)  # with heartbeats, a full queue may end the process (see `router`)
    # A network that swallows everything answers neither of the two: without a bound, the wait for it outlasts the trouble.
    socket.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity)
    socket.connect(endpoint)
    return socket


def ask(socket: Socket, frames: list[bytes | memoryview], wait_ms: int) -> bool:
    """Send once the connection is up, waiting for it at most `wait_ms`; False when it is not."""
    return bool(socket.poll(wait_ms, zmq.POLLOUT)) and send(socket, frames)


def send(socket: Socket, frames: list[bytes | memoryview]) -> bool:
    """Send without waiting; False when the peer is gone or its queue is full. What matters is sent again.

    Frames of 64 KiB and more are not copied, so whoever made them leaves them as they are.
    """
    try:
        socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=all(len(frame) < zmq.COPY_THRESHOLD for frame in frames))
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return False
        raise
    return True


def connections(socket: Socket) -> Socket:
    """What `reconnected` reads; the owner of `socket` closes it by `socket.disable_monitor()`."""
    return socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)


def reconnected(monitor: Socket) -> bool:
    """True when the connection has come up since the last call."""
    count = 0
    while monitor.poll(0, zmq.POLLIN):
        monitor.recv_multipart()
        count += 1
    return count > 0
