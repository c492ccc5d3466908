"""What the journal can say: one typed record each, as msgpack. Pure.

An ordinal is one of the run's stream (`learner.frontier`); a sequence is a record's place in the journal.
"""

from __future__ import annotations

import msgspec

from protocol.messages import GroupResult


class Began(msgspec.Struct, tag="began", frozen=True):
    """A life of the run begins."""

    lineage: int
    step: int
    checkpoint: str = ""
    """Folder that it goes on from; "" for the first life."""
    lease_epoch: int = 0
    """Of its first grants: the next life's lie above, also where it goes on from the same checkpoint."""


class Leased(msgspec.Struct, tag="leased", frozen=True):
    """From here on every ordinal below `below` may have been leased. What each stands for is a function of the run's seed."""

    below: int


class HeldOut(msgspec.Struct, tag="held_out", frozen=True):
    """`count` ordinals from `first` on are held-out groups, and no positions of the training stream."""

    first: int
    count: int


class Received(msgspec.Struct, tag="received", frozen=True):
    """One unique group result as it came. Ordinal, lease epoch, group and purpose are the result's own."""

    result: GroupResult
    position: int | None = None
    """Of its group in the training stream, so that it can be queued again without a frontier; None for held-out groups."""
    seed: int = 0
    """That its lease named for the sampling."""
    actor_id: str = ""


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """The batch of one optimiser step: its groups, in the order in which they left the queue."""

    step: int
    ordinals: list[int]


class Trained(msgspec.Struct, tag="trained", frozen=True):
    """The step changed the weights."""

    step: int


class Skipped(msgspec.Struct, tag="skipped", frozen=True):
    """The step changed nothing, for a loss or a gradient was not finite; its groups are dropped."""

    step: int


class RolledBack(msgspec.Struct, tag="rolled_back", frozen=True):
    """After `step` the weights are those of an earlier checkpoint again."""

    step: int
    to: int | None
    """Step of that checkpoint; None for the start."""


class Dropped(msgspec.Struct, tag="dropped", frozen=True):
    """A received group trains nobody."""

    ordinal: int
    reason: str


class Checkpointed(msgspec.Struct, tag="checkpointed", frozen=True):
    """The weights of `step` are on disk."""

    step: int
    needs: int
    """First sequence that a life which goes on from it has to read."""


class Salvaged(msgspec.Struct, tag="salvaged", frozen=True):
    """The sequences from `first` to `last` were damaged, and given up on the user's word. The journal writes it itself."""

    first: int
    last: int


Record = Began | Leased | HeldOut | Received | Taken | Trained | Skipped | RolledBack | Dropped | Checkpointed | Salvaged

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """Bytes of a record."""
    return _encoder.encode(record)


def decode(payload: bytes | memoryview) -> Record:
    """The inverse. Raises `msgspec.DecodeError` for what this version of rba does not know."""
    return _decoder.decode(payload)
