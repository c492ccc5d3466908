"""What the processes of a drill say about themselves: one JSON line for each thing that happened, one file a process.

Every line is written by one call, so one that was written survives the death of its process. ``at_s`` is the machine's monotonic clock,
which all processes share.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HISTORY = "history"
monotonic_s = time.monotonic
"""Kept aside, for a drill may change the clocks."""


class Recorder:
    """Writes one process's lines; any thread may."""

    def __init__(self, folder: Path, process: str) -> None:
        (folder / HISTORY).mkdir(parents=True, exist_ok=True)
        self._process = process
        path = folder / HISTORY / f"{process}-{os.getpid()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting = b""
        self._lock = threading.Lock()

    def write(self, event: str, **values: Any) -> None:
        """What a drill leaves no room for waits."""
        line = json.dumps({"at_s": monotonic_s(), "process": self._process, "pid": os.getpid(), "event": event, **values})
        with self._lock, contextlib.suppress(OSError):
            self._waiting += line.encode() + b"\n"
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]


class Reader:
    """All lines of a drill so far, in the order of their time. Reads what is new at each look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / HISTORY
        self._read: dict[Path, int] = {}
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        fresh = [row for path in self._folder.glob("*.jsonl") for row in self._fresh(path)]
        if fresh:
            self._rows = sorted([*self._rows, *fresh], key=lambda row: float(row["at_s"]))
        return self._rows

    def _fresh(self, path: Path) -> Iterator[dict[str, Any]]:
        start = self._read.get(path, 0)
        if path.stat().st_size <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")  # the last line may be on its way
        self._read[path] = start + len(whole) + len(newline)
        for line in whole.splitlines():
            yield json.loads(line)
