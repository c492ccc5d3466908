"""What is kept in memory of a manifest: where its lines lie, and in which of them each audio is named."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from protocol.dataset.lines import AUDIO_HASH, Line, LineDamage, read_line

ALGORITHM = "xxh128:"
PREFIX = len(ALGORITHM)
BATCH = 4096
"""Hashes that are read at once."""

Damaged = Callable[[int, str], None]
"""Told of a line by its number, from 1, and what is wrong with it."""
Each = Callable[[int, Line], None]
"""Shown a whole line by its number, from 1."""


@dataclass(frozen=True)
class Index:
    """One manifest's whole lines: 20 bytes a group and 20 an utterance.

    `lines` int32 ``[group]``, the number of its line, from 1; `starts` int64 ``[group]``, its first byte; `sizes` int32 ``[group]``;
    `checksums` uint64 ``[group]``, xxh3-64 of the line. The audio is sorted by the first half of its hash: `high` and `low` uint64
    ``[audio]``, `groups` int32 ``[audio]``, where it is named.
    """

    lines: NDArray[np.int32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int32]
    checksums: NDArray[np.uint64]
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    groups: NDArray[np.int32]
    size_bytes: int
    digest: str
    """``xxh128:<hex>`` of those bytes."""

    def group_of(self, audio: str) -> int | None:
        """Which group names the audio of that content hash."""
        if not AUDIO_HASH.fullmatch(audio):
            return None
        high, low = np.uint64(int(audio[PREFIX : PREFIX + 16], 16)), np.uint64(int(audio[PREFIX + 16 :], 16))
        first, last = np.searchsorted(self.high, high, "left"), np.searchsorted(self.high, high, "right")
        for at in range(int(first), int(last)):
            if self.low[at] == low:
                return int(self.groups[at])
        return None


def build(lines: Iterable[bytes], damaged: Damaged, each: Each | None = None, *, growing: bool) -> Index:
    """Read every line, with its end. `growing`: a last line without an end is none yet.

    A line of which `damaged` is told is left out, unless `damaged` raises; one that repeats a group_id is told of at the end, and stays.
    """
    numbers, starts, sizes, checksums = array("i"), array("q"), array("i"), array("Q")
    named: list[str] = []
    hashes, counts = bytearray(), array("i")
    ids = array("q")
    hasher, position = xxhash.xxh3_128(), 0
    checksum = xxhash.xxh3_64_intdigest
    for number, line in enumerate(lines, 1):
        if growing and not line.endswith(b"\n"):
            break
        hasher.update(line)
        start, position = position, position + len(line)
        if line.isspace():
            continue
        try:
            read = read_line(line)
        except LineDamage as damage:
            damaged(number, str(damage))
            continue
        audios = [audio for one in read.utterances if (audio := one.audio) is not None]
        named += audios
        counts.append(len(audios))
        if len(named) >= BATCH:
            hashes += _digits(named)
            named.clear()
        numbers.append(number)
        starts.append(start)
        sizes.append(len(line))
        checksums.append(checksum(line))
        ids.append(hash(read.group_id))
        if each is not None:
            each(number, read)
    _tell_repeated(np.frombuffer(ids, np.int64), numbers, damaged)
    hashes += _digits(named)
    halves = np.frombuffer(hashes, ">u8").reshape(-1, 2)
    order = np.argsort(halves[:, 0].astype(np.uint64), kind="stable")
    return Index(
        np.frombuffer(numbers, np.int32),
        np.frombuffer(starts, np.int64),
        np.frombuffer(sizes, np.int32),
        np.frombuffer(checksums, np.uint64),
        halves[order, 0].astype(np.uint64),
        halves[order, 1].astype(np.uint64),
        np.repeat(np.arange(len(counts), dtype=np.int32), np.frombuffer(counts, np.int32))[order],
        position,
        f"xxh128:{hasher.hexdigest()}",
    )


def _digits(named: list[str]) -> bytes:
    if not named:
        return b""
    letters = np.frombuffer("".join(named).encode("ascii"), np.uint8).reshape(len(named), -1)
    return bytes.fromhex(letters[:, PREFIX:].tobytes().decode("ascii"))


def _tell_repeated(ids: NDArray[np.int64], numbers: array[int], damaged: Damaged) -> None:
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
    firsts: dict[int, int] = {}
    for at in sorted(int(order[place]) for place in repeated):
        if not firsts:
            firsts = {int(ids[order[place]]): int(order[place - 1]) for place in reversed(repeated)}
        damaged(numbers[at], f"its group_id stands in line {numbers[firsts[int(ids[at])]]} already")
