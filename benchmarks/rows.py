"""Rows of a side-by-side measurement, as `rba bench NAME --json` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def row(case: str, unit: str, ours: float, peer: str, theirs: float, target: float | None) -> dict[str, Any]:
    """One row: the ratio is good from the `target` on upwards (rates), or downwards (bytes, seconds). None: no target."""
    return {"case": case, "unit": unit, "ours": ours, "peer": peer, "theirs": theirs, "ratio": ours / theirs, "target": target}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| case | unit | ours | peer | theirs | ratio | target |", "|---|---|---|---|---|---|---|"]
    for each in rows:
        ours, theirs, ratio = (f"{each[key]:.4g}" for key in ("ours", "theirs", "ratio"))
        lines.append(f"| {each['case']} | {each['unit']} | {ours} | {each['peer']} | {theirs} | {ratio} | {each['target'] or ''} |")
    return "\n".join(lines)
