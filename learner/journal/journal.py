"""A segmented write-ahead log of the learner's records, with group commit.

    append ──▶ buffer ──commit──▶ one write, one fdatasync ──▶ durable ──free_below──▶ gone

Nothing is durable before `commit` returns, and nothing that was durable is lost by a commit that fails: the buffer is kept, and a
later commit writes it. Every life of the run begins a file of its own; older files are never written to, but for cutting a torn tail.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from learner.journal.disk import Disk
from learner.journal.records import Record, Salvaged, encode
from learner.journal.recovery import Recovered, Segment, read_all
from learner.journal.segment import FRAME_BYTES, HEADER_BYTES, pack, pack_header, segment_name
from protocol.errors import RbaError

SEGMENT_BYTES = 64 << 20
BUFFER_BYTES = 16 << 20
DRAFT = "new.segment"
"""A file that has no header yet. It gets its name with it, so that no journal file is ever without."""


class NotDurableError(RbaError):
    """The disk refused; what was durable before still is, and nothing else has become so."""

    def __init__(self, where: str, error: OSError) -> None:
        super().__init__(f"{where}: the journal cannot be written: {error.strerror or error}")
        self.errno = error.errno

    @property
    def full(self) -> bool:
        """True when room on the disk, or quota, is all that lacks."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT)


class BufferFullError(RbaError):
    """More was appended without a commit than the buffer holds."""


@dataclass(slots=True)
class JournalCounts:
    """For metrics. `bytes_on_disk` and `segments` are of now, the others only grow."""

    bytes_on_disk: int = 0
    segments: int = 0
    records: int = 0
    """Durable ones of this life."""
    commits: int = 0
    failed_commits: int = 0
    torn_bytes: int = 0
    """Cut off when the journal was opened."""
    lost_records: int = 0
    """Given up when the journal was opened, at most."""


class Journal:
    """The writer. One thread owns it; `open` makes it."""

    def __init__(self, disk: Disk, recovered: Recovered, segment_bytes: int, buffer_bytes: int, new_salt: Callable[[], int]) -> None:
        self._disk, self._segment_bytes, self._buffer_bytes, self._new_salt = disk, segment_bytes, buffer_bytes, new_salt
        found = recovered.found
        self._segments = list(found.segments)
        self._active: int | None = None
        """Handle of the last segment, when this life writes to it."""
        self._salt = 0
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self.durable = found.next - 1
        """The last sequence that is safe."""
        self.counts = JournalCounts(torn_bytes=found.torn_bytes, lost_records=sum(lost.last - lost.first + 1 for lost in found.lost))
        self._count()

    @classmethod
    def open(
        cls,
        disk: Disk,
        *,
        salvage: bool = False,
        first_needed: int = 0,
        last_known: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        buffer_bytes: int = BUFFER_BYTES,
        new_salt: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> tuple[Journal, Recovered]:
        """The journal of a folder, to go on behind what is there, and what is there; a torn tail is cut off.

        A checkpoint tells `first_needed`, the first sequence that a life which goes on from it reads, and `last_known`, the last one
        that was durable when it was written. Raises `UserError` for damage between the two and behind, unless `salvage` gives the
        damaged records up; the journal then notes that it did.
        """
        try:
            disk.prepare()
            recovered = read_all(disk, salvage=salvage, first_needed=first_needed, last_known=last_known)
            _settle(disk, recovered)
            journal = cls(disk, recovered, segment_bytes, buffer_bytes, new_salt)
            for lost in recovered.found.lost:
                journal.append(Salvaged(lost.first, lost.last))
            journal.commit()
        except OSError as error:
            disk.release()
            raise NotDurableError(disk.where, error) from error
        except BaseException:
            disk.release()
            raise
        return journal, recovered

    def append(self, record: Record) -> int:
        """Take a record and return its sequence. Not durable yet. Raises `BufferFullError` when a commit has to come first."""
        payload = encode(record)
        size = len(payload) + FRAME_BYTES
        if self._buffered_bytes + size > self._buffer_bytes:
            raise BufferFullError(f"{self._buffered_bytes} bytes wait for a commit, and {size} more are over {self._buffer_bytes}")
        self._buffer.append(payload)
        self._buffered_bytes += size
        return self.durable + len(self._buffer)

    @property
    def buffered_bytes(self) -> int:
        """What waits for a commit."""
        return self._buffered_bytes

    def commit(self) -> int:
        """Make everything that was appended durable, at once, and return the last durable sequence. Raises `NotDurableError`."""
        if not self._buffer:
            return self.durable
        try:
            self._write()
        except OSError as error:
            self.counts.failed_commits += 1
            raise NotDurableError(self._disk.where, error) from error
        self.durable += len(self._buffer)
        self.counts.commits += 1
        self.counts.records += len(self._buffer)
        self._buffer, self._buffered_bytes = [], 0
        self._count()
        return self.durable

    def free_below(self, sequence: int) -> int:
        """Delete the files whose records are all below `sequence`, and return how many. Never the last file: it holds the count.

        `sequence` is what the oldest checkpoint that may still be gone on from needs. Raises `NotDurableError`.
        """
        freed = 0
        while len(self._segments) > 1 and self._segments[1].first <= sequence:
            try:
                self._disk.unlink(self._segments[0].name)
                # One at a time: of names that went together, a power loss may bring back the earlier and not the later one.
                self._disk.fsync_dir()
            except OSError as error:
                raise NotDurableError(self._disk.where, error) from error
            del self._segments[0]
            freed += 1
            self._count()
        return freed

    def bytes_behind(self, sequence: int) -> int:
        """Size of the files that reach behind `sequence`."""
        below = [*(segment.first for segment in self._segments[1:]), self.durable + 1]
        return sum(segment.size_bytes for segment, first in zip(self._segments, below, strict=False) if first > sequence + 1)

    def close(self) -> None:
        """Let go of the files. What was appended and not committed is lost."""
        self._leave()
        self._disk.release()

    # --- the rim --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        handle, segment = self._room()
        block = pack(self._buffer, self.durable + 1, self._salt)
        try:
            self._disk.write(handle, block)
        except OSError:
            self._retract(handle, segment.size_bytes)
            raise
        except BaseException:
            self._leave()  # how much was written is not known, so nothing may follow it
            raise
        try:
            self._disk.fdatasync(handle)
        except BaseException:
            # The kernel may have forgotten what it could not write: a second fdatasync would succeed and mean nothing. What is
            # buffered goes to a new file.
            self._retract(handle, segment.size_bytes)
            self._leave()
            raise
        self._segments[-1] = Segment(segment.name, segment.first, segment.size_bytes + len(block))

    def _room(self) -> tuple[int, Segment]:
        """The file that the next commit goes to. A commit lies in one file, so that only the last file can have a torn tail."""
        if self._active is not None:
            segment = self._segments[-1]
            if segment.size_bytes == HEADER_BYTES or segment.size_bytes + self._buffered_bytes <= self._segment_bytes:
                return self._active, segment
        return self._begin(self.durable + 1), self._segments[-1]

    def _begin(self, first: int) -> int:
        """A new file, durable with its header and its name. Returns its handle."""
        self._leave()
        salt, name = self._new_salt(), segment_name(first)
        handle = self._disk.create(DRAFT)
        try:
            self._disk.write(handle, pack_header(first, salt))
            self._disk.fdatasync(handle)
            self._disk.rename(DRAFT, name)
            self._disk.fsync_dir()
        except BaseException:
            with suppress(OSError):
                self._disk.close(handle)
            with suppress(OSError):
                self._disk.unlink(DRAFT)
            raise
        # One of that name had no durable record: its first commit failed.
        self._segments = [*(segment for segment in self._segments if segment.first < first), Segment(name, first, HEADER_BYTES)]
        self._active, self._salt = handle, salt
        return handle

    def _retract(self, handle: int, size: int) -> None:
        """Take back what a failed commit has written; where that fails as well, nothing may follow it in this file."""
        try:
            self._disk.truncate(handle, size)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        if self._active is not None:
            handle, self._active = self._active, None
            with suppress(OSError):
                self._disk.close(handle)

    def _count(self) -> None:
        self.counts.segments = len(self._segments)
        self.counts.bytes_on_disk = sum(segment.size_bytes for segment in self._segments)


def _settle(disk: Disk, recovered: Recovered) -> None:
    """Make durable what was read of the last file, for a killed process may have written it and not synced it; cut its torn tail off."""
    disk.unlink(DRAFT)
    found = recovered.found
    if not found.segments:
        return
    last = found.segments[-1]
    handle = disk.open(last.name)
    try:
        if found.torn_bytes:
            disk.truncate(handle, last.size_bytes - found.torn_bytes)
            found.segments[-1] = Segment(last.name, last.first, last.size_bytes - found.torn_bytes)
        disk.fdatasync(handle)
    finally:
        with suppress(OSError):
            disk.close(handle)
    disk.fsync_dir()
