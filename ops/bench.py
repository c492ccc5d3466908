"""Finds benchmarks by name: entry points of the group ``rba.benchmarks``, each a function that returns rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from typing import Any

from protocol.errors import UserError

GROUP = "rba.benchmarks"


def measure(name: str) -> list[dict[str, Any]]:
    """Run a benchmark; its rows have ``case, unit, ours, peer, theirs, ratio, target``. What it tells meanwhile goes to standard error.
    Raises `UserError` for an unknown one.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UserError(
            f"no benchmark {name}", where="the command line", fix=f"use one of: {', '.join(sorted(points)) or 'none installed'}"
        )
    with _told_aside():
        rows: list[dict[str, Any]] = points[name].load()()
    return rows


@contextmanager
def _told_aside() -> Iterator[None]:
    """Standard output goes to standard error, that of processes which are started meanwhile included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
