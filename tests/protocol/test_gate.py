"""A guarded socket on loopback, and the decisions behind it."""

from __future__ import annotations

import random
import socket as plain
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from protocol import gate, sockets
from protocol.errors import UserError
from protocol.gate import DOMAIN, Refusal, RevokedError, judge, listen, receive, server_door
from protocol.keyring import ClientKeys, KeyPair, Keyring

CAP_BYTES = 10_000
WAIT_MS = 5_000


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come to pass"
        time.sleep(0.005)


class Guarded:
    """A guarded ROUTER, and clients in a context of their own."""

    def __init__(self, folder: Path) -> None:
        self.keys = Keyring(folder)
        self.keys.complete()
        self.refused: Counter[str] = Counter()
        self._contexts: list[sockets.Context] = [zmq.Context(), zmq.Context()]
        self._clients: list[sockets.Socket] = []
        """Kept, or they would close when a test looks away."""
        door = server_door(self.keys, "pairs", lambda reason: self.refused.update([reason]))
        self.socket, self.endpoint, self.gate = listen(self._contexts[0], "127.0.0.1", 0, CAP_BYTES, "test", door)

    def client(self, keys: ClientKeys | None, identity: bytes = b"me") -> sockets.Socket:
        self._clients.append(sockets.dealer(self._contexts[1], self.endpoint, CAP_BYTES, identity, keys))
        return self._clients[-1]

    def stranger(self, name: str = "") -> ClientKeys:
        """A new pair, allowed under `name` if it has one."""
        public, secret = zmq.curve_keypair()
        if name:
            self.keys.allow(public.decode(), name)
        return ClientKeys(KeyPair(public.decode(), secret), self.keys.public("server"))

    def passes(self, client: sockets.Socket, text: bytes = b"question") -> bool:
        """A message of `client` arrives within the time of a handshake on a busy machine."""
        assert sockets.ask(client, [text], WAIT_MS)
        assert self.socket.poll(WAIT_MS)
        return receive(self.socket, self.gate)[1:] == [text]

    def close(self) -> None:
        assert self.gate is not None
        self.gate.close()
        for context in self._contexts:
            context.destroy(linger=0)


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is told "not now" asks again when its handshake has run out of time."""
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 300)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path / "keys")
    yield made
    made.close()


def test_an_allowed_key_gets_in(guarded: Guarded) -> None:
    client = guarded.client(guarded.keys.client())
    assert guarded.passes(client)
    assert sockets.send(guarded.socket, [b"me", b"answer"])
    assert client.poll(WAIT_MS)
    assert client.recv() == b"answer"
    assert not guarded.refused


def refused(guarded: Guarded, client: sockets.Socket, *reasons: Refusal) -> None:
    """It is counted, nothing it says arrives, and who is allowed still gets in."""
    until(lambda: any(guarded.refused[reason] for reason in reasons))
    assert not client.poll(0, zmq.POLLOUT)
    assert not guarded.socket.poll(0)
    assert guarded.passes(guarded.client(guarded.keys.client(), b"friend"))


def test_a_client_without_keys_is_refused(guarded: Guarded) -> None:
    # Both ends see that the other speaks another mechanism; the client may be the first to hang up.
    refused(guarded, guarded.client(None), Refusal.NO_KEYS, Refusal.BROKEN_OFF)


def test_an_unknown_key_is_refused(guarded: Guarded) -> None:
    refused(guarded, guarded.client(guarded.stranger()), Refusal.UNKNOWN_KEY)


def test_the_wrong_server_key_is_refused(guarded: Guarded) -> None:
    wrong = replace(guarded.keys.client(), server=zmq.curve_keypair()[0].decode())
    refused(guarded, guarded.client(wrong), Refusal.WRONG_SERVER_KEY)


def test_a_stolen_public_key_is_nothing_without_its_secret(guarded: Guarded) -> None:
    keys = guarded.keys.client()
    forged = replace(keys, own=replace(keys.own, secret=zmq.curve_keypair()[1]))
    refused(guarded, guarded.client(forged), Refusal.WRONG_SERVER_KEY)


def test_another_zap_domain_refuses_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(gate.Gate):
        def guard(self, socket: sockets.Socket) -> None:
            super().guard(socket)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"elsewhere")

    monkeypatch.setattr(gate, "Gate", Elsewhere)
    guarded = Guarded(tmp_path / "keys")
    try:
        client = guarded.client(guarded.keys.client())
        until(lambda: guarded.refused[Refusal.WRONG_DOMAIN])
        assert not client.poll(0, zmq.POLLOUT)
    finally:
        guarded.close()


def test_without_a_handler_nobody_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ's own default is to let every key in."""

    class Absent(gate.Gate):
        def _run(self) -> None:
            self._zap.unbind(gate.ZAP_ENDPOINT)
            super()._run()

    monkeypatch.setattr(gate, "Gate", Absent)
    guarded = Guarded(tmp_path / "keys")
    try:
        client = guarded.client(guarded.keys.client())
        until(lambda: guarded.refused[Refusal.BROKEN_OFF] >= 2)
        assert not client.poll(0, zmq.POLLOUT)
    finally:
        guarded.close()


def test_a_handshake_that_cannot_be_judged_keeps_one_peer_out(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []

    def failing(request: Any, name_of: Any) -> Any:
        judged.append(1)
        return 1 / 0 if len(judged) == 1 else judge(request, name_of)

    monkeypatch.setattr(gate, "judge", failing)
    first = guarded.client(guarded.stranger("b"), b"b")
    until(lambda: judged)
    assert not first.poll(0, zmq.POLLOUT)
    assert guarded.passes(guarded.client(guarded.keys.client()))


def test_a_socket_that_looks_away_from_the_keys_accepts_what_a_gate_refuses(guarded: Guarded) -> None:
    """The test above means something: the same handshake without the enforced domain succeeds."""
    context: sockets.Context = zmq.Context()
    try:
        loose = context.socket(zmq.ROUTER)
        loose.setsockopt(zmq.CURVE_SERVER, 1)
        loose.setsockopt(zmq.CURVE_SECRETKEY, guarded.keys.pair("server").secret)
        port = loose.bind_to_random_port("tcp://127.0.0.1")
        client = sockets.dealer(context, f"tcp://127.0.0.1:{port}", CAP_BYTES, b"me", guarded.stranger())
        assert client.poll(WAIT_MS, zmq.POLLOUT)
    finally:
        context.destroy(linger=0)


def test_a_key_that_is_allowed_while_its_holder_waits_gets_in(guarded: Guarded) -> None:
    keys = guarded.stranger()
    client = guarded.client(keys)
    until(lambda: guarded.refused[Refusal.UNKNOWN_KEY])
    guarded.keys.allow(keys.own.public, "late")
    assert guarded.passes(client)


def test_a_key_that_is_revoked_is_not_heard_again_on_its_open_connection(guarded: Guarded) -> None:
    keys = guarded.stranger("b")
    client = guarded.client(keys)
    assert guarded.passes(client)
    guarded.keys.revoke("b")
    until(lambda: guarded.gate is not None and guarded.gate._door.name_of(keys.own.public) is None)
    for _ in range(3):
        assert sockets.ask(client, [b"again"], WAIT_MS)
        assert guarded.socket.poll(WAIT_MS)
        with pytest.raises(RevokedError) as caught:
            receive(guarded.socket, guarded.gate)
        assert caught.value.peer == b"me"
    assert guarded.refused[Refusal.REVOKED] == 3
    assert guarded.passes(guarded.client(guarded.keys.client(), b"friend"))
    client.close()
    again = guarded.client(keys)
    until(lambda: guarded.refused[Refusal.UNKNOWN_KEY])
    assert not again.poll(0, zmq.POLLOUT)
    guarded.keys.allow(keys.own.public, "b")
    assert guarded.passes(again)


def test_rubbish_on_the_handshake_changes_nothing(guarded: Guarded) -> None:
    friend = guarded.client(guarded.keys.client(), b"friend")
    assert guarded.passes(friend)
    host, port = "127.0.0.1", int(guarded.endpoint.rpartition(":")[2])
    random.seed(3)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" * 32
    for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", random.randbytes(5000), greeting, greeting + b"\x04\xc8\x05HELLO" + bytes(194)):
        with plain.create_connection((host, port), timeout=5) as stream:
            stream.sendall(rubbish)
    until(lambda: guarded.refused[Refusal.BROKEN_OFF] and guarded.refused.total() >= 2)
    assert guarded.passes(friend, b"still here")
    assert guarded.passes(guarded.client(guarded.keys.client(), b"new"))


def test_the_same_refusal_is_logged_once_and_counted_each_time(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guarded.gate is not None
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(guarded.gate, "_log", type("Log", (), {"warning": lambda _, event, **fields: lines.append(fields)})())
    keys = guarded.stranger()
    guarded.client(keys)
    until(lambda: guarded.refused[Refusal.UNKNOWN_KEY] >= 3)
    guarded.client(guarded.stranger(), b"other")
    until(lambda: len([line for line in lines if line["reason"] == "unknown_key"]) == 2)
    first = next(line for line in lines if line["reason"] == "unknown_key")
    assert (first["key"], first["address"], first["socket"]) == (keys.own.public, "127.0.0.1", "pairs")
    for _ in range(2 * gate.TOLD_LIMIT):
        guarded.gate._refuse(Refusal.UNKNOWN_KEY, str(random.random()))
    assert len(guarded.gate._told) <= gate.TOLD_LIMIT
    assert not any(guarded.keys.pair(name).secret.decode() in str(lines) for name in ("server", "actor"))


def test_a_taken_port_leaves_no_gate_behind(guarded: Guarded) -> None:
    context: sockets.Context = zmq.Context()
    door = server_door(guarded.keys, "pairs", lambda _: None)
    with pytest.raises(UserError, match="cannot listen"):
        listen(context, "127.0.0.1", int(guarded.endpoint.rpartition(":")[2]), CAP_BYTES, "test", door)
    socket, _, second = listen(context, "127.0.0.1", 0, CAP_BYTES, "test", door)  # the handler's place is free again
    assert second is not None
    second.close()
    assert socket.closed
    context.term()


# --- the verdict ---

PUBLIC = bytes(range(32))
KEY = z85.encode(PUBLIC).decode()
REQUEST = [b"1.0", b"1", DOMAIN, b"127.0.0.1", b"", b"CURVE", PUBLIC]


def test_the_verdicts() -> None:
    known = judge(REQUEST, {KEY: "b"}.get)
    assert (known.status, known.user_id, known.refusal) == (b"200", KEY.encode(), None)
    unknown = judge(REQUEST, {}.get)
    assert (unknown.status, unknown.user_id, unknown.refusal) == (b"300", b"", Refusal.UNKNOWN_KEY)
    elsewhere = judge([*REQUEST[:2], b"other", *REQUEST[3:]], {KEY: "b"}.get)
    assert (elsewhere.status, elsewhere.user_id, elsewhere.refusal) == (b"400", b"", Refusal.WRONG_DOMAIN)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(REQUEST)), max_size=9))
def test_nothing_but_a_whole_request_of_an_allowed_key_is_granted(request: list[bytes]) -> None:
    verdict = judge(request, {KEY: "b"}.get)
    granted = len(request) == 7 and [request[at] for at in (0, 2, 5, 6)] == [b"1.0", DOMAIN, b"CURVE", PUBLIC]
    assert (verdict.status == b"200") == granted
    assert (verdict.refusal is None) == granted
    assert bool(verdict.user_id) == granted
