"""Pulls one policy version, chunk by chunk, into a folder: 8 chunks outstanding, each checked, then the whole.

A chunk that fails its checksum, or does not come, is asked for again; the folder appears only when everything is right.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import xxhash
import zmq

from protocol import sockets
from protocol.codec import WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError, RbaError
from protocol.messages import Chunk, ChunkRequest, Manifest, ManifestRequest, NotServed, PolicyVersion, WeightMessage
from protocol.weights.files import MANIFEST, PARTIAL, WEIGHTS, DamagedVersionError, checksum, commit, directory_of

OUTSTANDING = 8
ANSWER_S = 2.0
"""After this a request is repeated."""
POLL_MS = 100
BAD_LIMIT = 5
"""A chunk that is wrong this often is wrong at its source."""


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

    def manifest(self, version: PolicyVersion | None) -> Manifest:
        """The table of contents of `version`, or of the newest one. Raises `VersionGoneError` or `PullStoppedError`."""
        give_up_s = time.monotonic() + self._patience_s
        asked_s = float("-inf")
        while True:
            if time.monotonic() - asked_s > ANSWER_S and sockets.ask(self._socket, encode(ManifestRequest(version)), POLL_MS):
                asked_s = time.monotonic()
            answer, _ = self._receive(give_up_s)
            if isinstance(answer, Manifest) and version in (None, answer.policy_version):
                return answer
            if isinstance(answer, NotServed) and answer.policy_version == version:
                raise VersionGoneError(version, answer.newest, answer.reason)

    def into(self, root: Path, manifest: Manifest) -> Path:
        """Pull all chunks, check them and commit the folder under `root`.

        Raises `VersionGoneError`, `PullStoppedError`, or `DamagedVersionError` when the whole is not what the manifest promises.
        """
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
        try:
            self._chunks(partial / WEIGHTS, manifest)
            (partial / MANIFEST).write_bytes(msgspec.msgpack.encode(manifest))
            final = directory_of(root, manifest.policy_version)
            commit(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return final

    def _chunks(self, path: Path, manifest: Manifest) -> None:
        waiting = list(range(len(manifest.chunk_checksums)))[::-1]
        asked: dict[int, float] = {}
        bad: Counter[int] = Counter()
        give_up_s = time.monotonic() + self._patience_s
        with path.open("w+b") as file:
            file.truncate(manifest.size_bytes)
            while waiting or asked:
                self._ask(manifest.policy_version, waiting, asked)
                answer, payload = self._receive(give_up_s)
                match answer:
                    case Chunk() if answer.policy_version == manifest.policy_version and answer.index in asked and payload is not None:
                        del asked[answer.index]
                        if checksum(payload) != manifest.chunk_checksums[answer.index]:
                            self.bad_chunks += 1
                            bad[answer.index] += 1
                            if bad[answer.index] == BAD_LIMIT:
                                raise DamagedVersionError(f"chunk {answer.index} of policy version {manifest.policy_version} stays wrong")
                            waiting.append(answer.index)
                        else:
                            file.seek(answer.index * manifest.chunk_bytes)
                            file.write(payload)
                            give_up_s = time.monotonic() + self._patience_s
                    case NotServed() if answer.policy_version == manifest.policy_version:
                        raise VersionGoneError(manifest.policy_version, answer.newest, answer.reason)
                    case _:
                        pass  # An answer to something that is no longer asked.
            file.seek(0)
            self._check_whole(file.read, manifest)

    def _check_whole(self, read: Callable[[int], bytes], manifest: Manifest) -> None:
        whole = xxhash.xxh3_128()
        while block := read(1 << 22):
            whole.update(block)
        if f"xxh128:{whole.hexdigest()}" != manifest.digest:
            raise DamagedVersionError(f"policy version {manifest.policy_version}: every chunk is right, the whole is not")

    def _ask(self, version: PolicyVersion, waiting: list[int], asked: dict[int, float]) -> None:
        now_s = time.monotonic()
        for index in [index for index, asked_s in asked.items() if now_s - asked_s > ANSWER_S]:
            del asked[index]
            waiting.append(index)
        while waiting and len(asked) < OUTSTANDING and sockets.ask(self._socket, encode(ChunkRequest(version, waiting[-1])), POLL_MS):
            asked[waiting.pop()] = now_s

    def _receive(self, give_up_s: float) -> tuple[WeightMessage | None, bytes | None]:
        if self._stopped():
            raise PullStoppedError("the pull was told to stop")
        if time.monotonic() > give_up_s:
            raise PullStoppedError(f"the weight store did not answer for {self._patience_s:.0f} s")
        try:
            if not self._socket.poll(POLL_MS):
                return None, None
            message, payload = WEIGHTS_CODEC.decode(self._socket.recv_multipart(flags=zmq.DONTWAIT))
        except ProtocolError:
            self.bad_chunks += 1
            return None, None
        return message, payload[0] if payload else None
