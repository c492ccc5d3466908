"""Shards: plain tar files, whose members are named by their content: ``<32 hex digits>.flac``. Edge: the file system.

Headers hold no times and no owners, so the same audio makes the same bytes. What reads tar files reads them.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from protocol.audio import audio_hash
from protocol.dataset.disk import Appearing

BLOCK_BYTES = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK_BYTES)
"""How a tar file ends."""


class Stored(NamedTuple):
    """One audio within a shard."""

    audio: str
    """Content hash, ``xxh128:<32 hex digits>``."""
    offset: int
    """Of its first byte in the shard."""
    size_bytes: int


class ShardWriter:
    """Writes one shard, which gets its name when the block ends without an error, whole and durable; a shard of that name is replaced.

    Every method raises `UserError` where it cannot be written, such as on a full disk; nothing of the shard is left then.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._stored: dict[str, Stored] = {}
        self._file: Appearing | None = None

    def __enter__(self) -> Self:
        self._file = Appearing(self._path)
        return self

    @property
    def size_bytes(self) -> int:
        """So far."""
        return self._at

    def add(self, content: bytes, suffix: str = ".flac") -> Stored:
        """Append one audio file. What is in the shard already is not written twice."""
        audio = audio_hash(content)
        if audio not in self._stored:
            if self._file is None:
                raise RuntimeError("a shard is written in a `with` block")
            header = tarfile.TarInfo(audio.removeprefix("xxh128:") + suffix)
            header.size, header.mode = len(content), 0o644
            padding = bytes(-len(content) % BLOCK_BYTES)
            self._file.write(header.tobuf(tarfile.USTAR_FORMAT) + content + padding)
            self._stored[audio] = Stored(audio, self._at + BLOCK_BYTES, len(content))
            self._at += BLOCK_BYTES + len(content) + len(padding)
        return self._stored[audio]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Commit after a block without an error; nothing is left otherwise."""
        if self._file is None:
            return
        try:
            if kind is None:
                self._file.write(END)
                self._file.commit()
        finally:
            self._file.discard()
            self._file = None
