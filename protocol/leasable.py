"""Which instruction groups can be leased: one has to fit into a message. Pure."""

from __future__ import annotations

import msgspec

from protocol.codec import DIALOGUE_CAP_BYTES
from protocol.messages import InstructionGroup

GROUP_BYTES = DIALOGUE_CAP_BYTES - 1024
"""Of the largest group that fits into a lease; the rest is for what stands around it."""
SURE_LINE_BYTES = GROUP_BYTES // 4
"""No line of a manifest up to this size holds a larger group: a message takes less than four times the bytes of the shortest JSON."""


def too_large(group: InstructionGroup) -> str:
    """Why the group cannot be leased, or ""."""
    size_bytes = len(msgspec.msgpack.encode(group))
    if size_bytes <= GROUP_BYTES:
        return ""
    return f"the group {group.group_id[:80]!r} takes {size_bytes} bytes of a message, and {GROUP_BYTES} can be leased at most"
