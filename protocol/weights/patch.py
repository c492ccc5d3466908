"""What changed between two versions of the same bytes, losslessly: positions and new values of the elements that differ.

A delta is a row of pieces, one a block (a chunk of the whole), each behind its length. Bytes are compared by the width of an element,
so a changed bfloat16 costs its two bytes and one for the way from the element before it. Applying overwrites, so twice is as good as once.

    piece   kind (u8), changed elements (u32), bytes of the positions (u32), positions, values; nothing where nothing changed
    GAPS    a byte for the unchanged elements in between, 255 standing for 255 of them and more to come
    MASK    a bit an element
    WHOLE   the block itself, where it is smaller so
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from protocol.errors import RbaError
from protocol.weights.messages import Manifest

WHOLE, GAPS, MASK = 0, 1, 2
HEADER = struct.Struct("<BII")
LENGTH = struct.Struct("<I")
ESCAPE = 255
WIDTHS = {"F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
"""Bytes of an element by safetensors dtype; 1 for all others."""

Bytes = bytes | bytearray | memoryview
Positions = npt.NDArray[np.intp]


class DamagedDeltaError(RbaError):
    """The bytes are no delta of blocks of that size."""


def width_of(manifest: Manifest) -> int:
    """Bytes by which versions are compared: those of the smallest element."""
    return min((WIDTHS.get(entry.dtype, 1) for entry in manifest.tensors), default=1)


def encode_block(base: Bytes, new: Bytes, width: int) -> bytes:
    """The piece that makes `new` of `base`, two blocks of one size."""
    if len(new) % width:
        width = 1
    before, after = _elements(base, width), _elements(new, width)
    positions = np.flatnonzero(before != after)
    count = len(positions)
    if not count:
        return b""
    masked = 2 * count > len(after)  # more than a half changed: the bits are the smaller
    where = _mask(before != after) if masked else _gaps(positions)
    if not masked and len(where) > len(after) // 8:
        masked, where = True, _mask(before != after)
    if HEADER.size + len(where) + count * width > HEADER.size + len(new):
        return HEADER.pack(WHOLE, 0, 0) + bytes(new)
    return HEADER.pack(MASK if masked else GAPS, count, len(where)) + where + after[positions].tobytes()


def apply_piece(piece: Bytes, block: bytearray) -> None:
    """Overwrite in `block` what the piece says. Raises `DamagedDeltaError`; what is in `block` is then of no use."""
    if not len(piece):
        return
    if len(piece) < HEADER.size:
        raise DamagedDeltaError(f"a piece of {len(piece)} bytes")
    kind, count, size = HEADER.unpack_from(piece)
    body = memoryview(piece)[HEADER.size :]
    if kind == WHOLE:
        if len(body) != len(block):
            raise DamagedDeltaError(f"{len(body)} bytes for a block of {len(block)}")
        block[:] = body
        return
    width, rest = divmod(len(body) - size, count or 1)
    if kind not in {GAPS, MASK} or size > len(body) or rest or width not in {1, 2, 4} or len(block) % width:
        raise DamagedDeltaError(f"a piece of kind {kind}, {count} elements and {len(body)} bytes, {size} of them positions")
    elements = _elements(block, width)
    positions = _from_mask(body[:size], len(elements)) if kind == MASK else _from_gaps(body[:size])
    if len(positions) != count or (count and positions[-1] >= len(elements)):
        raise DamagedDeltaError(f"{len(positions)} positions for {count} values in {len(elements)} elements")
    elements[positions] = _elements(body[size:], width)


def join(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A delta of pieces, in the order of their blocks."""
    for piece in pieces:
        yield LENGTH.pack(len(piece))
        yield piece


def split(delta: Bytes, blocks: int) -> list[memoryview]:
    """The pieces of a delta. Raises `DamagedDeltaError` unless there is exactly one a block."""
    view, at, pieces = memoryview(delta), 0, []
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise DamagedDeltaError("cut off within a length")
        (size,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size + size
        pieces.append(view[at - size : at])
    if at != len(view) or len(pieces) != blocks:
        raise DamagedDeltaError(f"{len(pieces)} pieces for {blocks} blocks, {at} bytes of {len(view)}")
    return pieces


def _elements(data: Bytes, width: int) -> npt.NDArray[np.unsignedinteger]:
    return np.frombuffer(data, dtype=f"<u{width}")


def _gaps(positions: Positions) -> bytes:
    gaps = np.diff(positions, prepend=-1) - 1
    wide = np.flatnonzero(gaps >= ESCAPE)
    if not len(wide):
        return gaps.astype(np.uint8).tobytes()
    escapes = np.zeros(len(gaps), np.intp)
    escapes[wide] = gaps[wide] // ESCAPE
    ends = np.cumsum(escapes) + np.arange(len(gaps))
    made = np.full(int(ends[-1]) + 1, ESCAPE, np.uint8)
    made[ends] = gaps - ESCAPE * escapes
    return made.tobytes()


def _from_gaps(data: Bytes) -> Positions:
    steps = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(steps != ESCAPE)
    positions: Positions = np.cumsum(steps, dtype=np.intp)[ends] + np.arange(len(ends))
    return positions


def _mask(changed: npt.NDArray[np.bool_]) -> bytes:
    return np.packbits(changed).tobytes()


def _from_mask(data: Bytes, elements: int) -> Positions:
    if len(data) != (elements + 7) // 8:
        raise DamagedDeltaError(f"{len(data)} bytes of bits for {elements} elements")
    return np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8), count=elements))
