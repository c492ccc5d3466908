"""The recordings of one block in one tar file, named by content."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from protocol.audio import audio_hash


class Place(NamedTuple):
    """Where a recording lies."""

    audio: str
    path: str
    offset: int
    size_bytes: int


class ShardWriter:
    """Writes ``<folder>/<name>``, which appears when it is closed without an error."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._target = folder / name
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._target.with_name(f".{self._target.name}.partial")
        self._file = self._partial.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 -- closed by __exit__
        self._places: dict[str, Place] = {}

    def add(self, content: bytes) -> Place:
        """Store one FLAC file; the same content once."""
        name = audio_hash(content)
        if name not in self._places:
            member = tarfile.TarInfo(f"{name.removeprefix('xxh128:')}.flac")
            member.size = len(content)
            self._places[name] = Place(name, self._name, self._tar.offset + tarfile.BLOCKSIZE, len(content))
            self._tar.addfile(member, BytesIO(content))
        return self._places[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tar.close()
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None and self._places:
            self._partial.rename(self._target)
        else:
            self._partial.unlink()
