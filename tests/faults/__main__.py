"""Runs the drills and prints what became of each fault, as a table for docs/guarantees.md: ``python -m tests.faults``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.faults.table import FAULTS


def observed(report: Path) -> tuple[dict[int, list[str]], dict[int, list[float]]]:
    """What drills saw, and their recovery times in seconds, by fault."""
    seen: dict[int, list[str]] = defaultdict(list)
    recovered: dict[int, list[float]] = defaultdict(list)
    for entry in ET.parse(report).iter("property"):  # noqa: S314 - our own
        kind, _, number = entry.get("name", "").partition(" ")
        if kind == "fault":
            seen[int(number)].append(entry.get("value", ""))
        elif kind == "recovery":
            recovered[int(number)].append(float(entry.get("value", "")))
    return seen, recovered


def table(seen: dict[int, list[str]], recovered: dict[int, list[float]]) -> str:
    """In markdown."""
    lines = ["| # | fault | expected | observed | recovery, s | also tested in |", "|---|---|---|---|---|---|"]
    for number, fault in FAULTS.items():
        times = recovered.get(number)
        time = f"{max(times):.2f}" if times else ""
        what = "; ".join(seen.get(number, [])) or "see the tests"
        lines.append(f"| {number} | {fault.what} | {fault.expected} | {what} | {time} | {fault.elsewhere} |")
    return "\n".join(lines)


def main() -> int:
    """0 when all drills have passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).parent), f"--junitxml={report}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stdout)
        if report.is_file():
            sys.stdout.write(table(*observed(report)) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
