"""Messages as ZeroMQ frames, and back.

    frame 0   b"RBA", major, minor          5 bytes
    frame 1   the message, msgpack          decoded into a typed message
    frame 2…  raw payloads                  bytes of a weight chunk

Caps are checked before anything is decoded, and summed over the frames. An unknown minor version is read (its unknown fields are
ignored), another major version is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from protocol.errors import ProtocolError
from protocol.messages import ActorMessage, LearnerMessage
from protocol.weights.messages import WeightMessage

PROTOCOL = (1, 1)
"""Version of the protocol that this code speaks: (major, minor)."""
MAGIC = b"RBA"
PREFIX = MAGIC + bytes(PROTOCOL)
DIALOGUE_CAP_BYTES = 1 << 20
"""Of one message of the lease dialogue; it carries no audio."""
WEIGHTS_CAP_BYTES = 5 << 20
"""Of one message on the weight sockets: a chunk of 4 MiB, or the manifest of a large model."""

Message = TypeVar("Message")
Frame = TypeVar("Frame", bytes, memoryview)
_encoder = msgspec.msgpack.Encoder()


class BadMagicError(ProtocolError):
    """The frames are not of this protocol at all."""

    reason = "bad_magic"


class OtherVersionError(ProtocolError):
    """The peer speaks another major version."""

    reason = "other_version"


class TooLargeError(ProtocolError):
    """More bytes than a message may have."""

    reason = "too_large"


class BadMessageError(ProtocolError):
    """The header is no message of this boundary."""

    reason = "bad_message"


REFUSALS = tuple(error.reason for error in (ProtocolError, BadMagicError, OtherVersionError, TooLargeError, BadMessageError))
"""Words for a message that is none."""


def encode(message: msgspec.Struct, payload: Sequence[bytes | memoryview] = (), cap_bytes: int | None = None) -> list[bytes | memoryview]:
    """Frames of one message. Raises `TooLargeError` when `cap_bytes` is given and exceeded: a peer would refuse it anyway."""
    frames: list[bytes | memoryview] = [PREFIX, _encoder.encode(message), *payload]
    if cap_bytes is not None and (size := sum(len(frame) for frame in frames)) > cap_bytes:
        raise TooLargeError(f"{type(message).__name__} has {size} bytes, at most {cap_bytes} are allowed")
    return frames


class Codec(Generic[Message]):
    """Decodes what one boundary may say."""

    def __init__(self, union: Any, cap_bytes: int, payload_frames: int = 0) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)
        self.cap_bytes, self._payload_frames = cap_bytes, payload_frames

    def decode(self, frames: Sequence[Frame]) -> tuple[Message, Sequence[Frame]]:
        """The message and its payload frames. Raises a `ProtocolError` that names what is wrong."""
        size = sum(len(frame) for frame in frames)
        if size > self.cap_bytes:
            raise TooLargeError(f"{size} bytes, at most {self.cap_bytes} are allowed")
        if not frames or len(frames[0]) != len(PREFIX) or frames[0][: len(MAGIC)] != MAGIC:
            raise BadMagicError("not an rba message")
        major, minor = frames[0][len(MAGIC)], frames[0][len(MAGIC) + 1]
        if major != PROTOCOL[0]:
            raise OtherVersionError(f"protocol {major}.{minor}, this side speaks {PROTOCOL[0]}.{PROTOCOL[1]}")
        if not 2 <= len(frames) <= 2 + self._payload_frames:
            raise BadMessageError(f"{len(frames)} frames")
        try:
            message: Message = self._decoder.decode(frames[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadMessageError(str(error)) from None
        return message, frames[2:]


ACTOR_CODEC: Codec[ActorMessage] = Codec(ActorMessage, DIALOGUE_CAP_BYTES)
"""Reads what rollout actors say."""
LEARNER_CODEC: Codec[LearnerMessage] = Codec(LearnerMessage, DIALOGUE_CAP_BYTES)
"""Reads what the learner says."""
WEIGHTS_CODEC: Codec[WeightMessage] = Codec(WeightMessage, WEIGHTS_CAP_BYTES, payload_frames=1)
"""Reads what is said on the weight sockets."""
