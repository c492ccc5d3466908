"""Pulls one policy version into a folder, 8 chunks outstanding: deltas against a version that is there, then the chunks they leave out.

A chunk that fails its checksum, or does not come, is asked for again; the folder appears only when everything is right. A pull that breaks
off leaves its chunks to the next one of the same version (see `protocol.weights.partial`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zmq

from protocol import sockets
from protocol.codec import WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError, RbaError
from protocol.messages import PolicyVersion
from protocol.weights.files import DamagedVersionError, OpenVersion, checksum
from protocol.weights.messages import (
    Chunk,
    ChunkRequest,
    Delta,
    Manifest,
    ManifestRequest,
    NotServed,
    Seat,
    SeatRequest,
    WeightMessage,
)
from protocol.weights.partial import PartialVersion
from protocol.weights.patch import DamagedDeltaError, apply_piece, split

OUTSTANDING = 8
ANSWER_S = 2.0
"""After this a request is repeated."""
POLL_MS = 100
BAD_LIMIT = 5
"""A chunk that is wrong this often is wrong at its source."""
THREADS = min(8, os.cpu_count() or 1)
"""That apply deltas."""

Put = Callable[[int, memoryview], bool]
Bring = Callable[[Path, Manifest], bool]
"""Writes the version's bytes into the file, unchecked; True when it has written all."""


class VersionGoneError(RbaError):
    """The store does not have that version (any more)."""

    def __init__(self, version: PolicyVersion | None, newest: PolicyVersion | None, reason: str) -> None:
        super().__init__(f"policy version {version} is not served: {reason}")
        self.newest = newest


class PullStoppedError(RbaError):
    """The pull was given up: it was told to stop, or the store was away for too long."""


class Pull:
    """Pulls over one DEALER that the caller owns."""

    def __init__(self, socket: sockets.Socket, stopped: Callable[[], bool], patience_s: float = 60.0) -> None:
        self._socket, self._stopped, self._patience_s = socket, stopped, patience_s
        self.bad_chunks = 0
        self.bytes = 0
        """Of the chunks that came and were right."""
        self.by_delta = False
        """Deltas brought the last version, or most of it."""

    def seat(self, request: SeatRequest) -> Seat | None:
        """Tell the store that this node takes part in broadcasts; None when it does not answer soon. Raises `PullStoppedError`."""
        give_up_s = time.monotonic() + ANSWER_S
        answer: WeightMessage | None = None
        if sockets.ask(self._socket, encode(request), POLL_MS):
            while not isinstance(answer, Seat) and time.monotonic() < give_up_s:
                answer, _ = self._receive(float("inf"))
        return answer if isinstance(answer, Seat) else None

    def manifest(self, version: PolicyVersion | None, base: PolicyVersion | None = None, seat: SeatRequest | None = None) -> Manifest:
        """The table of contents of `version`, or of the newest one. Raises `VersionGoneError` or `PullStoppedError`.

        With a `base` it names the deltas from there, if there are any; making them may take the store a moment. With a `seat` it may say
        that the version is broadcast; gathering the group may take a moment, too.
        """
        give_up_s = time.monotonic() + self._patience_s
        asked_s = float("-inf")
        question = encode(ManifestRequest(version, base, seat))
        while True:
            if time.monotonic() - asked_s > ANSWER_S and sockets.ask(self._socket, question, POLL_MS):
                asked_s = time.monotonic()
            answer, _ = self._receive(give_up_s)
            if isinstance(answer, Manifest) and version in (None, answer.policy_version):
                return answer
            if isinstance(answer, NotServed) and (answer.policy_version, answer.base) == (version, None):
                raise VersionGoneError(version, answer.newest, answer.reason)

    def into(self, root: Path, manifest: Manifest, base: OpenVersion | None = None, bring: Bring | None = None) -> Path:
        """Pull what is missing, check it and commit the folder under `root`. `bring` may write chunks before.

        Raises `VersionGoneError`, `PullStoppedError`, or `DamagedVersionError` when the whole is not what the manifest promises.
        """
        partial = PartialVersion(root, manifest)
        self.by_delta = False
        try:
            if bring is not None:
                brought = bring(partial.file, manifest)
                partial.look()
                self.bad_chunks += len(partial.missing) if brought else 0
            if base is not None and manifest.deltas and not partial.resumed:
                self._follow(partial, base)
            self._chunks(manifest.policy_version, manifest.chunk_checksums, partial.missing, partial.put)
            return partial.commit()
        except (VersionGoneError, DamagedVersionError):
            partial.discard()
            raise
        finally:
            partial.close()

    def _follow(self, partial: PartialVersion, base: OpenVersion) -> None:
        """Make chunks of the base's and the deltas; those that do not come out right stay missing.

        Where the store has forgotten a delta, or the base is another one, that is all of them.
        """
        manifest = partial.manifest
        first = manifest.deltas[0]
        if (first.base, first.base_digest) != (base.manifest.policy_version, base.manifest.digest):
            return
        if (base.manifest.size_bytes, base.manifest.chunk_bytes) != (manifest.size_bytes, manifest.chunk_bytes):
            return
        if sum(delta.size_bytes for delta in manifest.deltas) > manifest.size_bytes:
            return
        blocks = len(manifest.chunk_checksums)
        try:
            pieces = [split(self._delta(delta, manifest.chunk_bytes), blocks) for delta in manifest.deltas]
        except (VersionGoneError, DamagedVersionError, DamagedDeltaError):
            return

        def made(index: int) -> bytearray | None:
            block = bytearray(base.chunk(index))
            try:
                for step in pieces:
                    apply_piece(step[index], block)
            except DamagedDeltaError:
                return None
            return block if checksum(block) == manifest.chunk_checksums[index] else None

        with ThreadPoolExecutor(THREADS, "apply delta") as pool:
            for first_index in range(0, blocks, 4 * THREADS):  # a few at a time: blocks that wait to be written take memory
                several = range(first_index, min(first_index + 4 * THREADS, blocks))
                for index, block in zip(several, pool.map(made, several), strict=True):
                    if block is not None:
                        partial.put(index, block, checked=True)
                        self.by_delta = True
                    else:
                        self.bad_chunks += 1

    def _delta(self, delta: Delta, chunk_bytes: int) -> bytearray:
        """Pull one delta into memory."""
        data = bytearray(delta.size_bytes)
        if len(delta.chunk_checksums) != -(-len(data) // chunk_bytes):
            raise DamagedDeltaError(f"{len(delta.chunk_checksums)} checksums for {len(data)} bytes")

        def put(index: int, chunk: memoryview) -> bool:
            start = index * chunk_bytes
            if len(chunk) != min(chunk_bytes, len(data) - start) or checksum(chunk) != delta.chunk_checksums[index]:
                return False
            data[start : start + len(chunk)] = chunk
            return True

        self._chunks(delta.policy_version, delta.chunk_checksums, range(len(delta.chunk_checksums)), put, delta.base)
        return data

    def _chunks(
        self, version: PolicyVersion, checksums: Sequence[int], wanted: Iterable[int], put: Put, base: PolicyVersion | None = None
    ) -> None:
        """Pull the `wanted` chunks of a version, or of its delta against `base`."""
        waiting = sorted(wanted, reverse=True)
        asked: dict[int, float] = {}
        bad: Counter[int] = Counter()
        give_up_s = time.monotonic() + self._patience_s
        while waiting or asked:
            self._ask(version, base, waiting, asked)
            answer, payload = self._receive(give_up_s)
            match answer:
                case Chunk() if (answer.policy_version, answer.base) == (version, base) and answer.index in asked and payload is not None:
                    del asked[answer.index]
                    if put(answer.index, payload):
                        self.bytes += len(payload)
                        give_up_s = time.monotonic() + self._patience_s
                        continue
                    self.bad_chunks += 1
                    bad[answer.index] += 1
                    if bad[answer.index] == BAD_LIMIT:
                        raise DamagedVersionError(f"chunk {answer.index} of {len(checksums)} of policy version {version} stays wrong")
                    waiting.append(answer.index)
                case NotServed() if (answer.policy_version, answer.base) == (version, base):
                    raise VersionGoneError(version, answer.newest, answer.reason)
                case _:
                    pass  # An answer to something that is no longer asked.

    def _ask(self, version: PolicyVersion, base: PolicyVersion | None, waiting: list[int], asked: dict[int, float]) -> None:
        now_s = time.monotonic()
        for index in [index for index, asked_s in asked.items() if now_s - asked_s > ANSWER_S]:
            del asked[index]
            waiting.append(index)
        while waiting and len(asked) < OUTSTANDING:
            if not sockets.ask(self._socket, encode(ChunkRequest(version, waiting[-1], base)), POLL_MS):
                return
            asked[waiting.pop()] = now_s

    def _receive(self, give_up_s: float) -> tuple[WeightMessage | None, memoryview | None]:
        """The next message and its payload, which lies where ZeroMQ received it."""
        if self._stopped():
            raise PullStoppedError("the pull was told to stop")
        if time.monotonic() > give_up_s:
            raise PullStoppedError(f"the weight store did not answer for {self._patience_s:.0f} s")
        try:
            if not self._socket.poll(POLL_MS):
                return None, None
            frames = self._socket.recv_multipart(flags=zmq.DONTWAIT, copy=False)
            message, payload = WEIGHTS_CODEC.decode([frame.buffer for frame in frames])
        except ProtocolError:
            self.bad_chunks += 1
            return None, None
        return message, memoryview(payload[0]) if payload else None
