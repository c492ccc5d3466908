"""What the first bytes of a WAV or FLAC file say. Pure: voices are checked before anything decodes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

STREAMED = frozenset({0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
"""Sizes that servers write into a WAV header before they know the right one."""


@dataclass(frozen=True)
class AudioHeader:
    """Format and length of a file."""

    rate_hz: int
    channels: int
    frames: int
    """0 where the header does not say."""
    end: int
    """Bytes that the whole file has at least; 0 where the header does not say."""

    @property
    def duration_s(self) -> float:
        """Of the whole file."""
        return self.frames / self.rate_hz


def read_header(head: bytes, size_bytes: int) -> AudioHeader:
    """The header of a WAV or FLAC file of `size_bytes` that starts with `head`. Raises `ValueError` for anything else."""
    try:
        if head[:4] == b"fLaC":
            return _flac(head)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            return _wav(head, size_bytes)
    except (struct.error, IndexError, ZeroDivisionError):
        raise ValueError("its header is cut off") from None
    raise ValueError("it is neither WAV nor FLAC")


def _flac(head: bytes) -> AudioHeader:
    packed = int.from_bytes(struct.unpack_from("8s", head, 18)[0])
    rate_hz = packed >> 44
    if not rate_hz:
        raise ValueError("its header names no sampling rate")
    return AudioHeader(rate_hz, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1, 0)


def _wav(head: bytes, size_bytes: int) -> AudioHeader:
    rate_hz = channels = block_bytes = 0
    position = 12
    while True:
        name, size = struct.unpack_from("<4sI", head, position)
        position += 8
        if name == b"fmt ":
            channels, rate_hz, block_bytes = struct.unpack_from("<xxHIxxxxH", head, position)
        elif name == b"data":
            known = size not in STREAMED
            data_bytes = size if known else max(0, size_bytes - position)
            frames = data_bytes // block_bytes
            if not rate_hz:
                raise ValueError("its header names no sampling rate")
            return AudioHeader(rate_hz, channels, frames, position + size if known else 0)
        position += size + size % 2
