"""Looks for damage in the audio that a manifest names. Edge: soundfile, on first use; the file system."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator

import numpy as np

from protocol.audio import SAMPLE_RATE, audio_hash, decode
from protocol.dataset.dataset import read_location, where_of
from protocol.dataset.lines import Line, Location, Recording
from protocol.dataset.places import Place, reason
from protocol.dataset.shards import BLOCK_BYTES, END
from protocol.errors import UserError

TOLERANCE_S = 0.02
"""By which a manifest's duration may be off: some are written with two decimals."""
SILENT = 1e-3
"""Audio whose loudest sample is below this, −60 dB of full scale, says nothing."""


class Recordings:
    """The audio of one folder. Its methods may be called from several threads."""

    def __init__(self, place: Place, max_audio_s: float, *, hear: bool) -> None:
        """`hear`: read and decode all of it, else look only at where it lies."""
        self._place, self._max_audio_s, self._hear = place, max_audio_s, hear
        self._lock = threading.Lock()
        self._sizes: dict[str, int | str] = {}
        self._damaged: dict[str, str] = {}

    def shards(self) -> list[tuple[str, str]]:
        """Shards that are no whole tar files, and why."""
        return sorted(self._damaged.items())

    def damages(self, line: Line) -> list[str]:
        """What is wrong with each utterance of a group."""
        found = []
        for number, one in enumerate(line.utterances, 1):
            if one.audio is not None:
                found += [f"utterance {number} ({one.speaker}): {what}" for what in self._damages(one)]
        return found

    def _damages(self, one: Recording) -> Iterator[str]:
        location = one.location
        size = self._size(location)
        if isinstance(size, str):
            yield size
            return
        if location.offset is not None and location.size_bytes is not None:
            if location.offset + location.size_bytes > size:
                end = location.offset + location.size_bytes
                yield f"{self._place.where(location.path)} has {size} bytes, and the audio would end at {end}"
                return
            if (what := self._misplaced(location)) is not None:
                yield what
                return
        if self._hear:
            yield from self._heard(one, location)

    def _size(self, location: Location) -> int | str:
        """Bytes of the file, or why it cannot be read. A shard's end is looked at the first time."""
        path = location.path
        if location.offset is None:
            return self._ask(path)
        with self._lock:
            if path not in self._sizes:
                self._sizes[path] = size = self._ask(path)
                if isinstance(size, int) and not self._ends(path, size):
                    self._damaged[path] = "the shard is cut off: it does not end as a tar file does"
            return self._sizes[path]

    def _ask(self, path: str) -> int | str:
        try:
            return self._place.size(path)
        except OSError as error:
            return f"{self._place.where(path)} cannot be read ({reason(error)})"

    def _ends(self, path: str, size: int) -> bool:
        if size % BLOCK_BYTES or size < len(END):
            return False
        try:
            return self._place.read(path, size - len(END), len(END)) == END
        except OSError:
            return False

    def _misplaced(self, location: Location) -> str | None:
        """Whether a member of the shard begins there and is as long; not asked far away, where the hash has to tell."""
        offset = location.offset or 0
        if self._place.far:
            return None
        what = f"no member of {self._place.where(location.path)} has {location.size_bytes} bytes from {offset}"
        if offset < BLOCK_BYTES or offset % BLOCK_BYTES:
            return what
        try:
            block = self._place.read(location.path, offset - BLOCK_BYTES, BLOCK_BYTES)
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (OSError, tarfile.HeaderError):
            return what
        return None if header.size == location.size_bytes else what

    def _heard(self, one: Recording, location: Location) -> Iterator[str]:
        where = where_of(self._place, location)
        try:
            content = read_location(self._place, location)
            if audio_hash(content) != one.audio:
                yield f"{where}: the content is not that of {one.audio}"
                return
            samples = decode(content, where, self._max_audio_s)
        except UserError as error:
            yield f"{error.where}: {error.what}"
            return
        duration_s = len(samples) / SAMPLE_RATE
        if one.duration_s and abs(duration_s - one.duration_s) > TOLERANCE_S:
            yield f"{where}: the audio takes {duration_s:.3f} s, and the manifest says {one.duration_s:.3f} s"
        if np.abs(samples).max() < SILENT:
            yield f"{where}: the audio is silent"
