"""Finds benchmarks by name: entry points of the group ``rba.benchmarks``, each a function that returns rows."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from protocol.errors import UserError

GROUP = "rba.benchmarks"


def measure(name: str) -> list[dict[str, Any]]:
    """Run a benchmark; its rows have ``case, unit, ours, peer, theirs, ratio, target``. Raises `UserError` for an unknown one."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UserError(
            f"no benchmark {name}", where="the command line", fix=f"use one of: {', '.join(sorted(points)) or 'none installed'}"
        )
    rows: list[dict[str, Any]] = points[name].load()()
    return rows
