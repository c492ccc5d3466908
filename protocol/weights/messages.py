"""What is said on the weight sockets: plain data, as `protocol.messages`.

weight store ──Manifest, Chunk──▶ node fetcher ──Fetched──▶ rollout actor
"""

from __future__ import annotations

import msgspec

from protocol.messages import PolicyVersion


class TensorEntry(msgspec.Struct, frozen=True):
    """One tensor of a policy version, in the released checkpoint's layout."""

    name: str
    dtype: str
    """As safetensors writes it: F32, BF16, F16."""
    shape: list[int]
    offset_bytes: int
    size_bytes: int


class Delta(msgspec.Struct, frozen=True):
    """One step of the way from a version that a node holds to another one: what is to be overwritten (see `protocol.weights.patch`)."""

    base: PolicyVersion
    base_digest: str
    policy_version: PolicyVersion
    """What `base` becomes."""
    size_bytes: int
    chunk_checksums: list[int]
    """xxh3-64 of each of the delta's own chunks, which are as large as the manifest says."""


class Manifest(msgspec.Struct, tag="manifest"):
    """Weight store → node fetcher: an immutable table of contents of one policy version."""

    policy_version: PolicyVersion
    tensors: list[TensorEntry]
    size_bytes: int
    chunk_bytes: int
    chunk_checksums: list[int]
    """xxh3-64 of each chunk."""
    digest: str
    """``xxh128:<hex>`` of all bytes."""
    unchanged: list[str] = []
    """Tensors that are not among these, being those of the checkpoint that the run started from."""
    deltas: list[Delta] = []
    """From the base that was named in the request to this version, one after the other; none where the whole is as good."""
    broadcast: int = 0
    """The round in which its bytes go to the whole group at once; 0: they are to be pulled."""


class SeatRequest(msgspec.Struct, tag="seat?", frozen=True):
    """Node fetcher → weight store: it is there, and takes part in broadcasts (`weights.backend: nccl`)."""

    member: str
    """``node:life``; a fetcher that comes back has the same node and another life."""
    epoch: int = 0
    """The group that it has joined, or is joining; 0 for none."""
    question: int = 0
    """Tells a question that is repeated from another one."""


class Seat(msgspec.Struct, tag="seat", frozen=True):
    """Weight store → node fetcher: which group to join, where and as which rank. Epoch 0: there is none for it (yet)."""

    epoch: int
    port: int
    rank: int
    size: int


class ManifestRequest(msgspec.Struct, tag="manifest?"):
    """Node fetcher → weight store. Without a version: the newest."""

    policy_version: PolicyVersion | None = None
    base: PolicyVersion | None = None
    """A version that the node holds and would take deltas against."""
    seat: SeatRequest | None = None
    """The node's seat in the group, if its bytes may come by broadcast."""


class ChunkRequest(msgspec.Struct, tag="chunk?"):
    """Node fetcher → weight store."""

    policy_version: PolicyVersion
    index: int
    base: PolicyVersion | None = None
    """Of the delta against this version, not of the version itself."""


class Chunk(msgspec.Struct, tag="chunk"):
    """Weight store → node fetcher; the bytes follow as one raw payload frame."""

    policy_version: PolicyVersion
    index: int
    base: PolicyVersion | None = None
    """As in the request."""


class NotServed(msgspec.Struct, tag="not_served"):
    """Weight store → node fetcher, node fetcher → actor: no such version here (any more), and which one is the newest."""

    policy_version: PolicyVersion | None
    newest: PolicyVersion | None
    reason: str = ""
    base: PolicyVersion | None = None
    """Of the delta that is not there; the version itself may be."""
    store_answers: bool = True
    """False where the node fetcher has heard nothing from the weight store."""


class FetchRequest(msgspec.Struct, tag="fetch?"):
    """Rollout actor → node fetcher on its node: have this version, or a newer one, in shared memory."""

    policy_version: PolicyVersion


class Fetched(msgspec.Struct, tag="fetched"):
    """Node fetcher → rollout actor: the version lies complete and checked in `directory` (``manifest.msgpack``, ``weights.bin``)."""

    policy_version: PolicyVersion
    directory: str
    digest: str
    size_bytes: int
    seconds: float


WeightMessage = ManifestRequest | ChunkRequest | SeatRequest | Manifest | Chunk | Seat | NotServed | FetchRequest | Fetched
"""Everything on the weight sockets."""
