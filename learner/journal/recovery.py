"""What lies in a journal's folder, and whether that is all that ought to lie there. Reads only.

Sequences tell what is missing: they rise by one from record to record, across files, and a file's name is the first of its own. So
bytes that hide no sequence do no harm, such as those which a failed commit left behind in a file that was given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from learner.journal.disk import Disk
from learner.journal.records import Record, Salvaged, decode
from learner.journal.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    Frame,
    first_of,
    frames,
    holds_lost_sector,
    payload_of,
    read_header,
    segment_name,
)
from protocol.errors import UserError


@dataclass(frozen=True, slots=True)
class Segment:
    """One file, by what its name and its size say."""

    name: str
    first: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Sequences that ought to be there and are not; `last` is an upper bound where the damage hides how many there were."""

    first: int
    last: int
    name: str
    offset: int
    """The first byte that is no whole record, in the file `name`."""


@dataclass(slots=True)
class Survey:
    """What is there."""

    segments: list[Segment] = field(default_factory=list)
    first: int = 1
    """First sequence that counts."""
    last: int = 0
    """Last sequence that is whole; `first` - 1 where none is."""
    lost: list[Lost] = field(default_factory=list)
    torn_bytes: int = 0
    """At the end of the last file: what a commit left that did not come to its end."""

    @property
    def next(self) -> int:
        """Sequence of the next record; none is given twice, not even a lost one."""
        return max([self.last, *(lost.last for lost in self.lost)]) + 1


def survey(names: Sequence[str], read: Callable[[str], bytes], first_needed: int = 0, last_known: int = 0) -> Survey:
    """Look through the files `names`, the oldest first.

    Sequences below `first_needed` do not count (0: all that is there does); up to `last_known` they are known to have been durable.
    """
    oldest = first_of(names[0]) if names else None
    found = Survey(first=first_needed or oldest or 1)
    expected, name, end, size = found.first, "", 0, 0
    for number, name in enumerate(names):
        first = first_of(name) or 0
        limit = (first_of(names[number + 1]) or 0) if number + 1 < len(names) else None
        if limit is not None and limit <= expected:
            continue  # nobody needs it
        if first > expected:
            found.lost.append(_missing(names[number - 1] if number else "", end, size, expected, first - 1))
            expected = first
        data = read(name)
        end, size, expected = HEADER_BYTES, len(data), max(expected, first)
        header = read_header(data, first)
        whole = list(frames(data, header.salt, first))
        for frame in whole:
            if limit is not None and frame.sequence >= limit:
                break
            if frame.sequence > expected:
                if limit is None and _torn(data, end, frame, whole[-1], expected):
                    break
                found.lost.append(Lost(expected, frame.sequence - 1, name, end))
            expected, end = max(expected, frame.sequence + 1), frame.end
        if limit is None and not header.whole and not whole:
            # A file comes into being with its header, so this is no commit that was cut short. How much is lost cannot be known.
            most = max(1, (size - HEADER_BYTES) // FRAME_BYTES)
            found.lost.append(Lost(expected, expected + most - 1, name, 0))
        elif limit is None:
            found.torn_bytes = size - end
            reached = whole[-1].sequence + 1 if whole else first
            if reached < found.first:  # what is needed begins behind the end
                found.lost.append(_missing(name, end, size, reached, found.first - 1))
    found.last = expected - 1
    if last_known > found.last:
        found.lost.append(_missing(name, end, size, expected, last_known))
    return found


def read_all(disk: Disk, *, salvage: bool = False, first_needed: int = 0, last_known: int = 0) -> Recovered:
    """What a journal holds. Raises `UserError` for damage in it, unless `salvage` gives up what is damaged."""
    names = sorted(name for name in disk.names() if first_of(name) is not None)
    found = survey(names, disk.read, first_needed, last_known)
    found.segments = [Segment(name, first_of(name) or 0, disk.size(name)) for name in names]
    recovered = Recovered(disk, found)
    if found.lost:
        given_up = [record for _, record in recovered.records() if isinstance(record, Salvaged)]
        found.lost = [lost for lost in found.lost if not any(old.first <= lost.first and lost.last <= old.last for old in given_up)]
    if found.lost and not salvage:
        _refuse(disk.where, found.lost)
    return recovered


class Recovered:
    """What an earlier life left, as it was found when it was opened."""

    def __init__(self, disk: Disk, found: Survey) -> None:
        self._disk, self.found = disk, found

    def records(self, after: int = 0) -> Iterator[tuple[int, Record]]:
        """(sequence, record), the oldest first, behind the sequence `after`. Holds one file in memory at a time."""
        segments, last = self.found.segments, self.found.last
        for number, segment in enumerate(segments):
            below = segments[number + 1].first if number + 1 < len(segments) else last + 1
            if below <= max(after + 1, self.found.first):
                continue
            data = self._disk.read(segment.name)
            for frame in frames(data, read_header(data, segment.first).salt, segment.first):
                if frame.sequence >= below or frame.sequence > last:
                    break
                if frame.sequence > after and frame.sequence >= self.found.first:
                    yield frame.sequence, _decoded(data, frame, f"{self._disk.where}/{segment.name}")


def _torn(data: bytes, start: int, behind: Frame, newest: Frame, expected: int) -> bool:
    """Damage in front of whole records is a commit that a power loss kept from the disk in part, when all of them are of the commit that
    the first missing record was of, and the damage looks like it: a disk need not write the sectors of a commit in order.
    """
    return newest.commit <= expected and holds_lost_sector(data, start, behind.offset)


def _missing(before: str, end: int, size: int, first: int, last: int) -> Lost:
    """Records between two files: cut from the end of the earlier one, or a file that is gone."""
    return Lost(first, last, before, end) if before and end < size else Lost(first, last, segment_name(first), 0)


def _decoded(data: bytes, frame: Frame, where: str) -> Record:
    try:
        return decode(payload_of(data, frame))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what, fix = f"record {frame.sequence} is none of this version of rba ({error})", "go on with the version that wrote it"
        raise UserError(what, where=f"{where} at byte {frame.offset}", fix=fix) from None


def _refuse(where: str, lost: Sequence[Lost]) -> None:
    worst, more = lost[0], len(lost) - 1
    what = f"records {worst.first} to {worst.last} of the journal are damaged or missing" + (f", and {more} more stretches" if more else "")
    fix = "put the file back as it was, or give those records up with --salvage"
    raise UserError(what, where=f"{where}/{worst.name} at byte {worst.offset}", fix=fix)
