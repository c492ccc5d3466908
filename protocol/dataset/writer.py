"""Writes data sets that are read while they grow: first the shard, then the lines that name it. Edge: the file system.

A writer that was killed goes on at what it had committed: it opens the manifest at that size, and writes the next shard again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import xxhash

from protocol.dataset import sidecar
from protocol.dataset.disk import Lock, sync_folder, telling
from protocol.dataset.lines import Location, write_line
from protocol.dataset.places import place_of
from protocol.dataset.shards import ShardWriter
from protocol.errors import UserError
from protocol.messages import InstructionGroup

BLOCK_BYTES = 1 << 20


class ManifestAppender:
    """Appends groups to a manifest. Readers see whole lines as soon as they are written; those committed outlive a crash.

    Every method raises `UserError` where it cannot be written, such as on a full disk; what was committed stays as it is.
    """

    def __init__(self, path: Path, size_bytes: int = 0) -> None:
        """Go on behind the first `size_bytes`, a size that `commit` has returned; what lies behind them is cut off."""
        self._path = path
        with telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            found = os.fstat(self._handle).st_size
            sync_folder(path.parent)  # what is committed to it would be lost with its name
        if found < size_bytes:
            os.close(self._handle)
            what = f"the manifest has {found} bytes, and {size_bytes} were committed"
            raise UserError(what, where=str(path), fix="restore it, or write the data set anew")
        self._size_bytes, self._committed_bytes, self._lines = size_bytes, size_bytes, bytearray()
        with telling(path):
            os.ftruncate(self._handle, size_bytes)

    def append(self, group: InstructionGroup, locations: Mapping[str, Location]) -> None:
        """Add one group, by whose audio's hashes `locations` are found. Raises `KeyError` where one is not."""
        self._lines += write_line(group, locations)
        if len(self._lines) >= BLOCK_BYTES:
            self._flush()

    def commit(self) -> int:
        """Make all groups so far durable. Returns the size at which to go on."""
        self._flush()
        with telling(self._path):
            os.fsync(self._handle)
        self._committed_bytes = self._size_bytes
        return self._committed_bytes

    def close(self) -> None:
        """What was not committed is cut off."""
        if self._handle < 0:
            return
        handle, self._handle = self._handle, -1
        try:
            with telling(self._path):
                os.ftruncate(handle, self._committed_bytes)
        finally:
            os.close(handle)

    def summary(self) -> sidecar.Entry:
        """Commit, and read the whole manifest: what a finished one's entry says."""
        size_bytes, groups, utterances, digest = self.commit(), 0, 0, xxhash.xxh3_128()
        with telling(self._path), self._path.open("rb") as file:
            for line in file:
                digest.update(line)
                groups += 1
                utterances += len(msgspec.json.decode(line, type=_Utterances).utterances)
        return sidecar.Entry(True, groups, utterances, size_bytes, f"xxh128:{digest.hexdigest()}")

    def _flush(self) -> None:
        with telling(self._path):
            while self._lines:
                written = os.pwrite(self._handle, self._lines, self._size_bytes)
                self._size_bytes += written
                del self._lines[:written]


class _Utterances(msgspec.Struct):
    utterances: list[msgspec.Raw]


class DataSetWriter:
    """The one writer of a folder of manifests and shards, as a context manager; a second one is refused, also from another process.

    A manifest is growing from `manifest` to `finish`; one that was not finished stays growing, to be gone on with.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """`about` says where the data set comes from. Raises `UserError` where somebody else writes it, and says who."""
        self._folder, self._about = folder, dict(about or {})
        self._open: dict[str, ManifestAppender] = {}
        self._lock = Lock(folder)
        try:
            self._sidecar = sidecar.read(place_of(folder / sidecar.NAME)[0]) or sidecar.empty()
        except BaseException:
            self._lock.release()
            raise

    def shard(self, name: str) -> ShardWriter:
        """A shard by its path relative to the folder."""
        return ShardWriter(self._folder / name)

    def manifest(self, name: str, size_bytes: int = 0) -> ManifestAppender:
        """A manifest of the folder, to go on with behind its first `size_bytes`; from now on it is growing."""
        self._describe({name: sidecar.Entry()})
        self._open[name] = ManifestAppender(self._folder / name, size_bytes)
        return self._open[name]

    def finish(self) -> None:
        """Commit every manifest that was opened, and write down what they hold; from now on they do not change."""
        self._describe({name: manifest.summary() for name, manifest in self._open.items()})
        self._close()

    def _describe(self, entries: Mapping[str, sidecar.Entry]) -> None:
        known = self._sidecar
        self._sidecar = msgspec.structs.replace(
            known, version=sidecar.VERSION, manifests={**known.manifests, **entries}, about={**known.about, **self._about}
        )
        sidecar.write(self._folder, self._sidecar)

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let go of it. What was not committed is cut off."""
        try:
            self._close()
        finally:
            self._lock.release()
