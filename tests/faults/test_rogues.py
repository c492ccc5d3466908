"""Strangers at the learner's socket: without keys, with keys that nobody knows, with bytes that nobody understands."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle  # noqa: TID251 - what a stranger may send
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq

from protocol.codec import LEARNER_CODEC, encode
from protocol.keyring import Keyring
from protocol.messages import Hello, Refused, Welcome
from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.record import monotonic_s

FLOODS = 4
FLOOD = 20_000
SPARE_BYTES = 128 << 20
"""One message of 64 frames of 0.9 MB comes in whole before its size is known."""


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@contextlib.contextmanager
def stranger(endpoint: str, keys: dict[int, bytes] | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A plain client, or one with CURVE options of its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        made = context.socket(zmq.DEALER)
        made.setsockopt(zmq.SNDTIMEO, 5_000)
        for option, value in (keys or {}).items():
            made.setsockopt(option, value)
        made.connect(endpoint)
        yield made
    finally:
        context.destroy(linger=1_000)


def say(endpoint: str, *frames: bytes) -> None:
    """One message, or as much of it as is taken."""
    with stranger(endpoint) as client, contextlib.suppress(zmq.Again):
        client.send_multipart(list(frames))


def test_bytes_that_nobody_understands_change_nothing(drill: Drill, told: Told) -> None:
    drill.begin()
    learner, exploded = drill.process("learner-0"), drill.folder / "exploded"
    memory, began_s = learner.memory_info().rss, monotonic_s()
    chance = random.Random(0)

    def refused() -> int:
        return int(drill.metrics("learner-0").get("rba_messages_refused_total", 0))

    hello = encode(Hello("rollout-9", 0, 1, (1, 0)))
    for payload in (pickle.dumps(Bomb(exploded)), b"\x80", b""):
        say(drill.learner_at, payload)
        say(drill.learner_at, bytes(hello[0]), payload)
        say(drill.learner_at, bytes(hello[0]), bytes(hello[1]), payload)
    say(drill.learner_at, bytes(hello[0]), b"x" * (2 << 20))
    for _ in range(FLOODS):
        known = refused()
        say(drill.learner_at, *[b"x" * 900_000] * 64)
        drill.until(lambda known=known: refused() > known, "the flood is refused")
    for _ in range(20):
        say(drill.learner_at, *(chance.randbytes(chance.randrange(200)) for _ in range(chance.randrange(1, 4))))
        with socket.create_connection(("127.0.0.1", drill.learner_port)) as raw:
            raw.sendall(chance.randbytes(chance.randrange(1, 2000)))
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on()
    grown = learner.memory_info().rss - memory
    assert grown < SPARE_BYTES
    assert not exploded.exists()
    assert {row["actor"] for row in drill.logged("actor registered", since_s=began_s)} <= {"rollout-0", "rollout-1"}
    counted = refused()
    assert counted >= FLOODS
    drill.finish()
    told(21, f"{counted} messages refused and counted, nothing unpickled, the learner {grown / 1e6:.0f} MB larger", recovery_s)


def test_a_flood_that_breaks_off_while_the_learner_is_busy_ends_nothing(drill: Drill, told: Told) -> None:
    """Its receive queue is full when the connection ends."""
    drill.begin()
    flooded_s = monotonic_s()
    drill.order("learner-0", do="hang", seconds=2.0)
    drill.until(lambda: not drill.status(timeout_s=0.2), "the learner is busy")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = context.socket(zmq.DEALER)
    client.setsockopt(zmq.SNDHWM, FLOOD // 2)
    client.connect(drill.learner_at)
    for _ in range(FLOOD):
        client.send(b"x" * 100)
    context.destroy(linger=0)
    recovery_s = drill.recovery_s(flooded_s)
    drill.goes_on()
    drill.finish()
    told(21, f"{FLOOD} messages at once, broken off: refused", recovery_s)


def test_strangers_without_the_right_keys_are_not_heard(drill: Drill, told: Told) -> None:
    keys = drill.folder / "keys"
    Keyring(keys).complete()
    drill.config["network"]["keys"] = str(keys)
    drill.begin()
    began_s, name = monotonic_s(), "rba_authentication_failures_total"
    server = Keyring(keys).client().server.encode()
    public, secret = zmq.curve_keypair()
    unknown = {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret, zmq.CURVE_SERVERKEY: server}
    hello = [bytes(frame) for frame in encode(Hello("rollout-9", 0, 1, (1, 0), pid=os.getpid()))]

    def refused_more_than(count: float) -> bool:
        return drill.metrics("learner-0").get(name, 0.0) > count

    for options in (None, unknown):
        seen = drill.metrics("learner-0").get(name, 0.0)
        with stranger(drill.learner_at, options) as client:
            client.send_multipart(hello)
            drill.until(functools.partial(refused_more_than, seen), "the refusal is counted")
            assert not client.poll(200)
    assert not drill.logged("actor registered", "rollout-9")
    recovery_s = drill.recovery_s(monotonic_s())
    assert not drill.logged("actor silent", since_s=began_s)
    drill.goes_on()
    drill.finish()
    told(21, "no key and an unknown key: refused at the handshake and counted", recovery_s)


def test_an_actor_of_an_older_protocol_is_told_so(drill: Drill, told: Told) -> None:
    drill.begin()
    with stranger(drill.learner_at) as client:
        client.send_multipart([b"RBA\x00\x09", b"\x93\x01\x02\x03"])
        assert client.poll(60_000)
        answer, _ = LEARNER_CODEC.decode(client.recv_multipart())
        assert isinstance(answer, Refused)
        assert "0.9" in answer.reason
    hello = msgspec.to_builtins(Hello("rollout-9", 0, 0, (1, 7))) | {"type": "hello", "of_a_later_minor_version": [1, 2]}
    with stranger(drill.learner_at) as client:
        client.send_multipart([b"RBA\x01\x07", msgspec.msgpack.encode(hello)])
        assert client.poll(60_000)
        answer, _ = LEARNER_CODEC.decode(client.recv_multipart())
        assert isinstance(answer, Welcome)
    recovery_s = drill.recovery_s(monotonic_s())
    drill.goes_on()
    drill.finish()
    told(23, "another major version is refused with both versions named; a later minor one is read", recovery_s)
