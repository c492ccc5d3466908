"""MinHash over the characters of texts: equal on every machine, and vectorised over blocks of texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 16, 8
"""A pair whose shingles overlap by 0.8 shares a band with probability 0.947, by 0.85 with 0.994, by 0.9 with 0.9999, by 0.5 with 0.06."""
SHINGLE = 5
"""Characters of a shingle. Words would not do: many languages write none."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BASE = 0x9E3779B185EBCA87


def shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of every run of `SHINGLE` characters, text after text, and where each text's begin: ``(n,)`` and ``(texts + 1,)``.

    Spaces around a text count, so that its first and last words weigh as much as the others; a shorter text is one shingle.
    """
    padded = [f" {text} ".ljust(SHINGLE) for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    starts = np.zeros(len(padded) + 1, dtype=np.int64)
    np.cumsum(lengths - (SHINGLE - 1), out=starts[1:])
    hashes = np.zeros(max(0, len(points) - SHINGLE + 1), dtype=np.uint64)
    for place in range(SHINGLE):
        hashes *= np.uint64(_BASE)
        hashes += points[place : place + len(hashes)]
    inside = np.ones(len(points), dtype=bool)
    ends = np.cumsum(lengths)
    for before in range(1, SHINGLE):
        inside[ends - before] = False
    return _mixed(hashes[inside[: len(hashes)]]), starts


def bands(texts: Sequence[str]) -> NDArray[np.uint32]:
    """One hash per text and band, ``(texts, BANDS)``: texts with a hash in common are candidates."""
    if not texts:
        return np.zeros((0, BANDS), dtype=np.uint32)
    hashes, starts = shingles(texts)
    found = np.empty((len(texts), BANDS), dtype=np.uint32)
    moved = np.empty_like(hashes)
    for band in range(BANDS):
        together = np.full(len(texts), band, dtype=np.uint64)
        for row in range(ROWS):
            number = band * ROWS + row
            np.multiply(hashes, _FACTORS[number], out=moved)
            moved += _SHIFTS[number]
            together = _mixed(together * _GOLDEN + np.minimum.reduceat(moved, starts[:-1]))
        found[:, band] = together
    return found


def runs(text: str) -> frozenset[str]:
    """What `shingles` hashes, as text."""
    padded = f" {text} ".ljust(SHINGLE)
    return frozenset(padded[start : start + SHINGLE] for start in range(len(padded) - SHINGLE + 1))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity of two texts' runs, in [0, 1]; what MinHash estimates."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_DRAWN = _mixed(np.arange(1, 2 * BANDS * ROWS + 1, dtype=np.uint64) * _GOLDEN)
_FACTORS, _SHIFTS = _DRAWN[: BANDS * ROWS] | np.uint64(1), _DRAWN[BANDS * ROWS :]
