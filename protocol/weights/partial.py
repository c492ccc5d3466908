"""A policy version on its way into a folder: chunks come in any order and from any source, each is checked before it is written.

What is written lies in shared memory under the version's digest, so a process that takes over from one that died finds the chunks
that are right, and goes on with the others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import xxhash

from protocol.weights.files import MANIFEST, PARTIAL, WEIGHTS, DamagedVersionError, checksum, commit, directory_of, sweep
from protocol.weights.messages import Manifest

READ_BYTES = 4 << 20


class PartialVersion:
    """The bytes of one version as far as they are there. One writer; close or commit it."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Begin under `root`, or go on with what an earlier one left of the same version."""
        root.mkdir(parents=True, exist_ok=True)
        self.manifest, self._root = manifest, root
        self._folder = folder_of(root, manifest)
        found = (self._folder / WEIGHTS).exists()
        self._file = self._lock()
        sweep(root)
        os.ftruncate(self._file, manifest.size_bytes)
        self._whole, self._hashed = xxhash.xxh3_128(), 0
        """Digest of the first chunks, and how many they are; most chunks come in order and are hashed as they come."""
        self._there = bytearray(len(manifest.chunk_checksums))
        self.resumed = self.look() if found else 0
        """Chunks that an earlier one had brought."""

    @property
    def file(self) -> Path:
        """Where chunks may be written by others while this is open; `look` finds them."""
        return self._folder / WEIGHTS

    @property
    def missing(self) -> list[int]:
        """Chunks that are not there, in their order."""
        return [index for index, there in enumerate(self._there) if not there]

    def chunk_size(self, index: int) -> int:
        """Bytes of a chunk; the last one may be shorter."""
        return min(self.manifest.chunk_bytes, self.manifest.size_bytes - index * self.manifest.chunk_bytes)

    def put(self, index: int, data: bytes | bytearray | memoryview, *, checked: bool = False) -> bool:
        """Write one chunk; False when it is not what the manifest promises. `checked`: the caller has compared its checksum."""
        if not checked and (len(data) != self.chunk_size(index) or checksum(data) != self.manifest.chunk_checksums[index]):
            return False
        at = 0
        while at < len(data):
            at += os.pwrite(self._file, memoryview(data)[at:], index * self.manifest.chunk_bytes + at)
        if index == self._hashed and not self._there[index]:
            self._whole.update(data)
            self._hashed += 1
        self._there[index] = 1
        return True

    def commit(self) -> Path:
        """Compare the whole with the manifest's digest and give the folder its name. Raises `DamagedVersionError`."""
        if missing := self.missing:
            raise DamagedVersionError(f"{self._folder}: {len(missing)} chunks are missing")
        buffer = memoryview(bytearray(READ_BYTES))
        at = min(self._hashed * self.manifest.chunk_bytes, self.manifest.size_bytes)
        while size := os.preadv(self._file, [buffer], at):
            self._whole.update(buffer[:size])
            at += size
        if f"xxh128:{self._whole.hexdigest()}" != self.manifest.digest:
            self.discard()
            raise DamagedVersionError(f"policy version {self.manifest.policy_version}: every chunk is right, the whole is not")
        (self._folder / MANIFEST).write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(self.manifest, deltas=[], broadcast=0)))
        self.close()
        final = directory_of(self._root, self.manifest.policy_version)
        commit(self._folder, final)
        return final

    def discard(self) -> None:
        """Leave nothing behind."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Leave what is there to whoever pulls this version next."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _lock(self) -> int:
        """Open the file; in a folder of its own when another process is at work on the same version here."""
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                file = os.open(self._folder / WEIGHTS, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # another process has swept it away
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_nlink:
                    return file
            except BlockingIOError:
                self._folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._root))
            os.close(file)

    def look(self) -> int:
        """Mark the chunks that are right and say how many they are. Reading does not take memory for those that were never written."""
        buffer = memoryview(bytearray(self.manifest.chunk_bytes))
        for index, expected in enumerate(self.manifest.chunk_checksums):
            size = os.preadv(self._file, [buffer], index * self.manifest.chunk_bytes)
            self._there[index] = checksum(buffer[: min(size, self.chunk_size(index))]) == expected
        return sum(self._there)


def folder_of(root: Path, manifest: Manifest) -> Path:
    """Where the chunks of that version, and of no other bytes, gather."""
    version = manifest.policy_version
    return root / f"{PARTIAL}{version.lineage}-{version.step}-{manifest.digest.rpartition(':')[2]}"
