"""Draws that depend on what they are for and on nothing else: a block that is worked on again is worked on in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import xxhash

T = TypeVar("T")


def number(*of: object) -> int:
    """64 bits from the hash of `of`, which are numbers and texts."""
    return int(xxhash.xxh64_intdigest("\x1f".join(map(str, of)).encode()))


def seed(*of: object) -> int:
    """A sampling seed: 31 bits, which every engine and every server takes."""
    return number(*of) >> 33


def between(low: float, high: float, *of: object) -> float:
    """A number in [low, high], in steps of a ten-thousandth of the way."""
    return round(low + (high - low) * (number(*of) % 10_001) / 10_000, 6)


def pick(choices: Sequence[T], *of: object) -> T:
    """One of the choices."""
    return choices[number(*of) % len(choices)]
