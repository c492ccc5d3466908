from __future__ import annotations

import time
import tracemalloc

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.codec import (
    ACTOR_CODEC,
    DIALOGUE_CAP_BYTES,
    LEARNER_CODEC,
    PREFIX,
    PROTOCOL,
    WEIGHTS_CAP_BYTES,
    WEIGHTS_CODEC,
    BadMagicError,
    BadMessageError,
    Codec,
    OtherVersionError,
    TooLargeError,
    encode,
)
from protocol.errors import ProtocolError
from protocol.messages import Ack, GroupResults, Heartbeat, Hello, Lease, PolicyVersion, Welcome
from protocol.weights.messages import Chunk, Manifest, TensorEntry
from tests.protocol import examples

VERSION = PolicyVersion(1, 5)
CODECS: list[Codec[object]] = [ACTOR_CODEC, LEARNER_CODEC, WEIGHTS_CODEC]  # type: ignore[list-item]


def as_bytes(frames: list[bytes | memoryview]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


@pytest.mark.parametrize("message", examples.ACTOR_MESSAGES, ids=lambda message: type(message).__name__)
def test_what_an_actor_says_arrives_as_it_was_said(message: messages.ActorMessage) -> None:
    decoded, payload = ACTOR_CODEC.decode(as_bytes(encode(message)))
    assert decoded == message
    assert list(payload) == []


@pytest.mark.parametrize(
    "message",
    [
        Welcome("run", "boot", VERSION, 2.0),
        Lease([examples.leased(4, 2)], VERSION, 300.0),
        Ack(0, 3, VERSION),
        Heartbeat(VERSION),
        messages.Refused("no"),
        messages.Bye("done"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_learner_says_arrives_as_it_was_said(message: messages.LearnerMessage) -> None:
    assert LEARNER_CODEC.decode(as_bytes(encode(message)))[0] == message


def test_a_chunk_keeps_its_payload() -> None:
    message, payload = WEIGHTS_CODEC.decode(as_bytes(encode(Chunk(VERSION, 3), [b"weights"])))
    assert message == Chunk(VERSION, 3)
    assert bytes(payload[0]) == b"weights"


def test_the_manifest_of_a_large_model_fits() -> None:
    entries = [
        TensorEntry(f"language_model.model.layers.{n}.self_attn.q_proj.weight", "BF16", [4096, 4096], n << 25, 1 << 25)
        for n in range(2_000)
    ]
    manifest = Manifest(VERSION, entries, 64 << 30, 4 << 20, [(1 << 64) - 1] * ((64 << 30) // (4 << 20)), "xxh128:" + "0" * 32)
    assert WEIGHTS_CODEC.decode(as_bytes(encode(manifest, cap_bytes=WEIGHTS_CAP_BYTES)))[0] == manifest


def test_the_wire_is_plain_msgpack() -> None:
    prefix, header = as_bytes(encode(examples.results([5], 7)))
    assert prefix == b"RBA" + bytes(PROTOCOL)
    plain = msgpack.unpackb(header)
    assert plain["type"] == "results"
    assert (plain["actor_id"], plain["incarnation"], plain["sequence"]) == ("rollout-0", 0, 7)
    assert plain["results"][0]["completions"][0]["token_ids"] == b"\x01\0\0\0"


def test_msgpack_of_another_library_is_read() -> None:
    header = msgpack.packb({"type": "heartbeat", "policy_version": [1, 5], "held_groups": 3})
    assert ACTOR_CODEC.decode([PREFIX, header])[0] == Heartbeat(VERSION, 3)


def test_a_newer_minor_version_with_unknown_fields_is_read() -> None:
    header = msgpack.packb({"type": "heartbeat", "held_groups": 3, "mood": ["good", {"very": True}]})
    assert ACTOR_CODEC.decode([b"RBA" + bytes((PROTOCOL[0], 77)), header])[0] == Heartbeat(None, 3)


def test_another_major_version_is_refused_with_both_versions() -> None:
    with pytest.raises(OtherVersionError, match=rf"9\.2.*{PROTOCOL[0]}\.{PROTOCOL[1]}"):
        ACTOR_CODEC.decode([b"RBA" + bytes((9, 2)), b""])


@pytest.mark.parametrize("frames", [[], [b""], [b"RBA"], [b"GET / HTTP/1.1"], [b"XYZ\x01\0", b"\x80"]])
def test_other_bytes_are_no_message(frames: list[bytes]) -> None:
    with pytest.raises(BadMagicError):
        ACTOR_CODEC.decode(frames)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        msgpack.packb([]),
        msgpack.packb({"type": "nonsense"}),
        msgpack.packb({"type": "hello"}),
        msgpack.packb({"type": "welcome", "run_id": "r"}),
        msgpack.packb({"type": "heartbeat", "held_groups": "three"}),
        msgpack.packb({"type": "heartbeat"}) + b"tail",
        msgpack.packb({"type": "bye", "reason": "\udce4"}, unicode_errors="surrogateescape"),
        b"\x91" * 200_000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
)
def test_a_header_that_no_actor_writes_is_refused(header: bytes) -> None:
    with pytest.raises(BadMessageError):
        ACTOR_CODEC.decode([PREFIX, header])


def test_the_cap_counts_all_frames() -> None:
    frames = [PREFIX, *[b"x" * 100_000] * 11]
    with pytest.raises(TooLargeError):
        ACTOR_CODEC.decode(frames)


def test_the_cap_is_checked_before_anything_is_decoded() -> None:
    bomb = b"\xdd" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000
    tracemalloc.start()
    started_s = time.perf_counter()
    with pytest.raises(TooLargeError):
        ACTOR_CODEC.decode([PREFIX, bomb])
    seconds = time.perf_counter() - started_s
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.1
    assert peak_bytes < 1 << 20


def test_frames_that_no_message_has_are_refused() -> None:
    header = msgspec.msgpack.encode(Heartbeat())
    with pytest.raises(BadMessageError, match="3 frames"):
        ACTOR_CODEC.decode([PREFIX, header, b"payload"])
    with pytest.raises(BadMessageError, match="1 frames"):
        ACTOR_CODEC.decode([PREFIX])


def test_a_sender_learns_that_its_message_is_too_large() -> None:
    huge = GroupResults("a", 0, 0, [examples.result(0, text="x" * DIALOGUE_CAP_BYTES)])
    with pytest.raises(TooLargeError, match="GroupResults"):
        encode(huge, cap_bytes=DIALOGUE_CAP_BYTES)


@given(st.lists(st.one_of(st.binary(max_size=300), st.just(PREFIX), st.just(b"RBA\x01\x09")), max_size=5), st.sampled_from(CODECS))
def test_any_bytes_are_a_message_or_a_protocol_error(frames: list[bytes], codec: Codec[object]) -> None:
    try:
        message, _ = codec.decode(frames)
    except ProtocolError:
        return
    assert isinstance(message, msgspec.Struct)


@given(st.sampled_from(examples.ACTOR_MESSAGES), st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(message: messages.ActorMessage, data: st.DataObject) -> None:
    header = bytearray(bytes(encode(message)[1]))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(header)))
    for damaged in (bytes(header), bytes(header[:cut])):
        try:
            decoded, _ = ACTOR_CODEC.decode([PREFIX, damaged])
        except ProtocolError:
            continue
        assert isinstance(decoded, messages.ActorMessage)


versions = st.builds(PolicyVersion, st.integers(0, 2**31), st.integers(0, 2**31))


@given(
    st.one_of(
        st.builds(Heartbeat, st.none() | versions, st.integers(0, 2**31), st.integers(0, 2**62)),
        st.builds(messages.Bye, st.text()),
        st.builds(
            Hello,
            st.text(),
            st.integers(0, 2**62),
            st.integers(0, 1000),
            st.tuples(st.integers(0, 255), st.integers(0, 255)),
            held=st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**31)), max_size=5),
        ),
    )
)
def test_every_value_survives_the_way(message: messages.ActorMessage) -> None:
    assert ACTOR_CODEC.decode(as_bytes(encode(message)))[0] == message
