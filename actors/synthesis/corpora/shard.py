"""The recordings of one block in one tar file, named by content."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from protocol.audio import audio_hash


class Stored(NamedTuple):
    """One audio within a shard."""

    audio: str
    offset: int
    size_bytes: int


class ShardWriter:
    """Writes a shard, which gets its name when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._stored: dict[str, Stored] = {}

    def add(self, content: bytes) -> Stored:
        """Store one FLAC file; the same content once."""
        audio = audio_hash(content)
        if audio not in self._stored:
            member = tarfile.TarInfo(f"{audio.removeprefix('xxh128:')}.flac")
            member.size = len(content)
            self._stored[audio] = Stored(audio, self._tar.offset + tarfile.BLOCKSIZE, len(content))
            self._tar.addfile(member, BytesIO(content))
        return self._stored[audio]

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tar.close()
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._partial.rename(self._path)
        else:
            self._partial.unlink()
