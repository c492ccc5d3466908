"""A policy version as files: one folder with its bytes and its manifest, complete or not there at all.

<root>/<lineage>-<step>/weights.bin        the tensors, one after the other
<root>/<lineage>-<step>/manifest.msgpack   their table of contents, checksums and digest
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import xxhash

from protocol.errors import RbaError
from protocol.messages import PolicyVersion
from protocol.weights.messages import Manifest, TensorEntry

WEIGHTS = "weights.bin"
MANIFEST = "manifest.msgpack"
PARTIAL = ".partial-"
ALIGNMENT_BYTES = 64
"""Tensors start on cache lines, so that they can be used where they lie."""

TensorBytes = tuple[str, str, list[int], bytes | bytearray | memoryview]
"""Released name, safetensors dtype, shape, bytes."""


class DamagedVersionError(RbaError):
    """The bytes of a policy version are not those that its manifest promises."""


def directory_of(root: Path, version: PolicyVersion) -> Path:
    """Where `version` lies, or would lie."""
    return root / f"{version.lineage}-{version.step}"


def checksum(chunk: bytes | bytearray | memoryview) -> int:
    """xxh3-64 of a chunk."""
    return xxhash.xxh3_64_intdigest(chunk)


def write_version(
    root: Path, version: PolicyVersion, tensors: Iterable[TensorBytes], chunk_bytes: int, unchanged: Iterable[str] = ()
) -> Manifest:
    """Write and commit one version; a reader sees all of it or nothing. A version that is there already is replaced.

    `unchanged` names the tensors that are left out, since they are those of the starting checkpoint.
    """
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
    try:
        entries, size_bytes = _write_tensors(partial / WEIGHTS, tensors)
        manifest = _manifest(partial / WEIGHTS, version, entries, size_bytes, chunk_bytes)
        manifest.unchanged = sorted(unchanged)
        (partial / MANIFEST).write_bytes(msgspec.msgpack.encode(manifest))
        commit(partial, directory_of(root, version))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def commit(partial: Path, final: Path) -> None:
    """Give a complete folder its name; an older one of that name is moved aside first and then removed."""
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
        final.rename(old / "old")
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)


def _write_tensors(path: Path, tensors: Iterable[TensorBytes]) -> tuple[list[TensorEntry], int]:
    entries: list[TensorEntry] = []
    offset = 0
    with path.open("wb") as file:
        for name, dtype, shape, buffer in tensors:
            data = memoryview(buffer).cast("B")
            padding = -offset % ALIGNMENT_BYTES
            file.write(b"\0" * padding)
            file.write(data)
            entries.append(TensorEntry(name, dtype, list(shape), offset + padding, data.nbytes))
            offset += padding + data.nbytes
    return entries, offset


def _manifest(path: Path, version: PolicyVersion, entries: list[TensorEntry], size_bytes: int, chunk_bytes: int) -> Manifest:
    whole = xxhash.xxh3_128()
    checksums = []
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            whole.update(chunk)
            checksums.append(checksum(chunk))
    return Manifest(version, entries, size_bytes, chunk_bytes, checksums, f"xxh128:{whole.hexdigest()}")


class OpenVersion:
    """A committed version, mapped read-only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.manifest = msgspec.msgpack.decode((directory / MANIFEST).read_bytes(), type=Manifest)
            with (directory / WEIGHTS).open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size_bytes else b""
        except (OSError, msgspec.DecodeError) as error:
            raise DamagedVersionError(f"{directory}: no readable policy version ({error})") from error
        if size_bytes != self.manifest.size_bytes:
            self.close()
            raise DamagedVersionError(f"{directory}: {size_bytes} bytes, the manifest says {self.manifest.size_bytes}")

    def tensor_bytes(self, entry: TensorEntry) -> memoryview:
        """The bytes of one tensor, without a copy."""
        return memoryview(self._map)[entry.offset_bytes : entry.offset_bytes + entry.size_bytes]

    @property
    def whole(self) -> memoryview:
        """All bytes, without a copy."""
        return memoryview(self._map)

    def chunk(self, index: int) -> memoryview:
        """One chunk, without a copy."""
        start = index * self.manifest.chunk_bytes
        return memoryview(self._map)[start : start + self.manifest.chunk_bytes]

    def verify(self) -> None:
        """Compare all bytes with the manifest's digest. Raises `DamagedVersionError`."""
        found = f"xxh128:{xxhash.xxh3_128_hexdigest(self._map)}"
        if found != self.manifest.digest:
            raise DamagedVersionError(f"{self.directory}: the bytes have digest {found}, the manifest says {self.manifest.digest}")

    def close(self) -> None:
        """Unmap it; who has a view keeps the bytes until it lets go."""
        if isinstance(self._map, mmap.mmap):
            with contextlib.suppress(BufferError):
                self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_version(directory: Path) -> OpenVersion:
    """Open a committed version. Raises `DamagedVersionError`."""
    return OpenVersion(directory)


def versions(root: Path) -> list[PolicyVersion]:
    """The committed versions, oldest first."""
    found = []
    for path in root.glob("*-*") if root.is_dir() else ():
        lineage, _, step = path.name.partition("-")
        if lineage.isdecimal() and step.isdecimal() and (path / MANIFEST).is_file():
            found.append(PolicyVersion(int(lineage), int(step)))
    return sorted(found)


def newest(root: Path) -> PolicyVersion | None:
    """The newest committed version."""
    return max(versions(root), default=None)


def prune(root: Path, keep: int) -> list[PolicyVersion]:
    """Remove all but the newest `keep` versions and return what went. Who has one mapped keeps its bytes.

    What a killed writer left half done goes too, so a writer may call this only between two writes.
    """
    sweep(root)
    gone = versions(root)[:-keep] if keep else versions(root)
    for version in gone:
        shutil.rmtree(directory_of(root, version), ignore_errors=True)
    return gone


def sweep(root: Path) -> None:
    """Remove what is half done, unless a living process has it locked: Ray may have several nodes on one machine, each with a fetcher."""
    for partial in root.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError), (partial / WEIGHTS).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
        if not (partial / WEIGHTS).exists():
            shutil.rmtree(partial, ignore_errors=True)
