"""One file of the journal, as bytes. Pure: bytes in, frames out.

    header   magic, major, minor, zero     first sequence   salt   xxh3-64 of these     32 bytes
    frame    mark, payload bytes, sequence, number in its commit   xxh3-64   payload     28 bytes + payload

All little-endian. A frame's checksum covers everything else of it and is seeded with the file's random salt, so neither old disk
blocks nor a payload that holds a whole frame can pass for a record. The mark lets a reader find the next frame behind damage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xxhash

from protocol.errors import UserError

FORMAT = (1, 0)
"""Version of the files that this code writes: (major, minor)."""
MAGIC = b"RBAJ"
MARK = b"\xc1rec"
"""0xC1 occurs neither in msgpack's own bytes nor in UTF-8, so few payloads hold it."""
SECTOR_BYTES = 512
"""What a disk writes whole or not at all."""

_HEADER = struct.Struct("<4sBBHQQ")
_HEAD = struct.Struct("<4sIQI")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
FRAME_BYTES = _HEAD.size + _CHECKSUM.size
_NAME = re.compile(r"\d{20}\.journal")


class Header(NamedTuple):
    """What the first bytes of a file say."""

    salt: int
    whole: bool
    """False where they are damaged; the salt is then what lies in its place."""


class Frame(NamedTuple):
    """A record whose checksum is right, by its place in the file."""

    sequence: int
    commit: int
    """First sequence of the commit that wrote it."""
    offset: int
    end: int


def segment_name(first: int) -> str:
    """Name of the file whose first record has this sequence; names sort like sequences."""
    return f"{first:020d}.journal"


def first_of(name: str) -> int | None:
    """The inverse; None for the name of anything else."""
    return int(name.removesuffix(".journal")) if _NAME.fullmatch(name) else None


def pack_header(first: int, salt: int) -> bytes:
    """The first bytes of a file."""
    fields = _HEADER.pack(MAGIC, *FORMAT, 0, first, salt)
    return fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields))


def read_header(data: bytes, first: int) -> Header:
    """Of the file whose name says `first`. Raises `UserError` for another major version."""
    padded = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
    magic, major, minor, _, named, salt = _HEADER.unpack_from(padded)
    whole = magic == MAGIC and _CHECKSUM.unpack_from(padded, _HEADER.size)[0] == xxhash.xxh3_64_intdigest(padded[: _HEADER.size])
    if whole and major != FORMAT[0]:
        raise UserError(
            f"journal format {major}.{minor}, this version reads {FORMAT[0]}.{FORMAT[1]}",
            where=segment_name(first),
            fix="go on with the version of rba that wrote it",
        )
    return Header(salt, whole and named == first)


def pack(payloads: Sequence[bytes], first: int, salt: int) -> bytes:
    """Frames of one commit, whose first record has the sequence `first`."""
    parts: list[bytes] = []
    for number, payload in enumerate(payloads):
        head = _HEAD.pack(MARK, len(payload), first + number, number)
        parts += (head, _CHECKSUM.pack(_checksum(head, payload, salt)), payload)
    return b"".join(parts)


def frames(data: bytes, salt: int, first: int) -> Iterator[Frame]:
    """Every whole frame from the sequence `first` on, in rising order; damage between them is passed over."""
    position, expected = HEADER_BYTES, first
    while position >= 0:
        frame = _frame_at(data, position, salt, expected)
        if frame is not None:
            yield frame
            position, expected = frame.end, frame.sequence + 1
        else:
            position = data.find(MARK, position + 1)


def payload_of(data: bytes, frame: Frame) -> memoryview:
    """The record's own bytes."""
    return memoryview(data)[frame.offset + FRAME_BYTES : frame.end]


def holds_lost_sector(data: bytes, start: int, end: int) -> bool:
    """True when a disk sector between the offsets reads as zeros from `start`, or from its own start, to its end.

    That is what a sector looks like which a power loss kept from the disk; damage of other kinds does not zero it.
    """
    while (stop := (start // SECTOR_BYTES + 1) * SECTOR_BYTES) <= end:
        if not any(data[start:stop]):
            return True
        start = stop
    return False


def _frame_at(data: bytes, position: int, salt: int, expected: int) -> Frame | None:
    if position + FRAME_BYTES > len(data):
        return None
    mark, size, sequence, number = _HEAD.unpack_from(data, position)
    end = position + FRAME_BYTES + size
    # Cheap doubts first: payloads full of marks must not cost a checksum each.
    if mark != MARK or end > len(data) or not expected <= sequence <= expected + len(data) // FRAME_BYTES or number > sequence:
        return None
    view = memoryview(data)[position:end]
    (checksum,) = _CHECKSUM.unpack_from(view, _HEAD.size)
    whole = checksum == _checksum(view[: _HEAD.size], view[FRAME_BYTES:], salt)
    return Frame(sequence, sequence - number, position, end) if whole else None


def _checksum(head: bytes | memoryview, payload: bytes | memoryview, salt: int) -> int:
    hasher = xxhash.xxh3_64(head, seed=salt)
    hasher.update(payload)
    return int(hasher.intdigest())
