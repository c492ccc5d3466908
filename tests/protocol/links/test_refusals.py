"""What a link refuses, over real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import zmq

from protocol import sockets
from protocol.codec import DIALOGUE_CAP_BYTES, LEARNER_CODEC
from protocol.dialogue.actor_events import Ended, Granted, Registered
from protocol.errors import UserError
from protocol.keyring import KeyPair
from protocol.links.actor import ActorLink
from protocol.messages import Refused
from tests.protocol import examples
from tests.protocol.links.made import Links, both_ways, guarded, notice, port_of, until


@both_ways
async def test_a_taken_port_is_the_users_error(links: Links) -> None:
    learner = links.learner()
    with pytest.raises(UserError, match=str(port_of(learner))) as caught:
        links.learner(port_of(learner))
    assert caught.value.fix


@both_ways
async def test_rubbish_leaves_the_link_as_it_was(links: Links) -> None:
    learner = links.learner()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    kept = []
    for frames in ([b""], [b"RBA\x01\0", b"\x91" * 100_000], [b"pickle"] * 50, [b"x" * (DIALOGUE_CAP_BYTES + 1)], [b"y" * 900_000] * 64):
        socket = context.socket(zmq.DEALER)
        kept.append(socket)
        socket.linger = 0  # or it waits for ever, on whatever way this ends, over what a guarded link does not take
        socket.connect(learner.endpoint)
        socket.send_multipart(frames)
    actor = links.actor(learner.endpoint)
    await notice(actor, Registered)
    learner.offer([examples.leased(0)])
    await notice(actor, Granted)
    learner.raise_if_failed()
    await asyncio.to_thread(context.destroy, linger=0)


async def test_an_actor_of_another_major_version_is_told(links: Links) -> None:
    learner = links.learner()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(learner.endpoint)
    socket.send_multipart([b"RBA\x09\x00", b"\x80"])
    assert await asyncio.to_thread(socket.poll, 5_000)
    answer, _ = LEARNER_CODEC.decode(socket.recv_multipart())
    assert isinstance(answer, Refused)
    assert "9.0" in answer.reason
    context.destroy(linger=0)


async def test_a_learner_of_another_major_version_ends_the_actor(links: Links) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    actor = links.actor(f"tcp://127.0.0.1:{port}")
    peer, *_ = await asyncio.to_thread(socket.recv_multipart)
    socket.send_multipart([peer, b"RBA\x09\x00", b"\x80"])
    ended = await notice(actor, Ended)
    assert ended.refused
    assert "9.0" in ended.reason
    context.destroy(linger=0)


@guarded
async def test_a_revoked_actor_is_told_and_its_work_goes_to_another_one_at_once(links: Links) -> None:
    assert links.keys is not None
    learner = links.learner(heartbeat_s=5.0)
    b = zmq.curve_keypair()
    links.keys.allow(b[0].decode(), "b")
    keys = replace(links.keys.client(), own=KeyPair(b[0].decode(), b[1]))
    revoked = ActorLink(learner.endpoint, "rollout-b", 0, 4, keys=keys)
    revoked.start()
    await notice(revoked, Registered)
    learner.offer([examples.leased(0)])
    await notice(revoked, Granted)
    links.keys.revoke("b")
    assert learner._gate is not None
    await until(lambda: learner._gate._door.name_of(b[0].decode()) is None)  # type: ignore[union-attr]
    revoked.send_results([examples.result(0)])
    ended = await notice(revoked, Ended)
    assert ended.refused
    assert "no longer allowed" in ended.reason
    assert links.refused["revoked"] >= 1
    other = links.actor(learner.endpoint)
    granted = await notice(other, Granted)
    assert [(leased.ordinal, leased.lease_epoch) for leased in granted.lease.groups] == [(0, 1)]
    ledger = learner.ledger()
    assert (ledger.received, ledger.expired) == (0, 1), "what it sent never reached the ledger"
    assert ledger.faults() == []
    await asyncio.to_thread(revoked.close)


@guarded
async def test_an_actor_that_is_not_allowed_yet_waits_for_it(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 300)
    assert links.keys is not None
    learner = links.learner()
    links.keys.revoke("actor")
    actor = links.actor(learner.endpoint)
    await until(lambda: links.refused["unknown_key"] or links.refused["revoked"])
    assert learner.status()["actors"] == []
    links.keys.allow(links.keys.public("actor"), "again")
    await notice(actor, Registered)
