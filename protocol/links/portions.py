"""What is too large for one message goes in several. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from protocol.codec import DIALOGUE_CAP_BYTES

Item = TypeVar("Item")
PORTION_BYTES = DIALOGUE_CAP_BYTES // 2
"""Of the items in one message; the rest is for what stands around them."""


def portions(sized: Iterable[tuple[Item, int]], cap_bytes: int = PORTION_BYTES) -> list[list[Item]]:
    """Items, each with its encoded size in bytes, in their order: as many together as `cap_bytes` hold, a larger one alone."""
    parts: list[list[Item]] = []
    room = 0
    for item, size_bytes in sized:
        if not parts or size_bytes > room:
            parts.append([])
            room = cap_bytes
        parts[-1].append(item)
        room -= size_bytes
    return parts
