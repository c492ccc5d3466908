"""A port for somebody who is told it and takes it later."""

from __future__ import annotations

import random
import socket
from pathlib import Path

FIRST = 20_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_RANGE = (32_768, 60_999)
TRIES = 100


def free() -> int:
    """A port that nobody has, below those that the system gives out by itself: of these, another process may get it in between.

    Raises `OSError` when none is found.
    """
    first_given_out = int(RANGE.read_text().split()[0]) if RANGE.is_file() else USUAL_RANGE[0]
    candidates = range(FIRST, first_given_out) if first_given_out > FIRST + TRIES else range(USUAL_RANGE[1] + 1, 1 << 16)
    for port in random.sample(candidates, TRIES):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
