"""Logs: one JSON object a line, one file a process."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

import structlog


class Lines:
    """Where log lines go. One that the disk has no room for is left out: whoever logs that a disk is full must not fail by it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Of a text stream."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)

    def flush(self) -> None:
        """Of a text stream."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.flush()


def configure(run_dir: Path | None, role_id: str) -> Path | None:
    """Send this process's log lines to `<run_dir>/logs/<role_id>.jsonl`, or to standard error without a run directory."""
    path: Path | None = None
    stream: TextIO = sys.stderr
    if run_dir is not None:
        path = run_dir / "logs" / f"{role_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", buffering=1, encoding="utf-8")

    def name_process(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # No context variable: threads that start later would not have it.
        return {"process": role_id, **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, Lines(stream))),
        cache_logger_on_first_use=False,
    )
    return path


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines say where they come from."""
    # Not bound yet: one that is made before `configure` follows it.
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


class Sparing:
    """Keeps whoever may say what they like from filling the disk: of each event a few lines a minute, and how many were left out."""

    LINES, EVERY_S, DETAIL = 20, 60.0, 300

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        self._logger = logger
        self._since_s = float("-inf")
        self._said: Counter[str] = Counter()

    def info(self, event: str, **fields: Any) -> None:
        """Something that people should see."""
        if self._may(event):
            self._logger.info(event, **self._cut(fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Something that people should look at."""
        if self._may(event):
            self._logger.warning(event, **self._cut(fields))

    def _may(self, event: str) -> bool:
        now_s = time.monotonic()
        if now_s - self._since_s >= self.EVERY_S:
            for name, count in self._said.items():
                if count > self.LINES:
                    self._logger.warning("lines left out", of=name, lines=count - self.LINES, within_s=self.EVERY_S)
            self._since_s = now_s
            self._said.clear()
        self._said[event] += 1
        return self._said[event] <= self.LINES

    def _cut(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value[: self.DETAIL] if isinstance(value, str) else value for name, value in fields.items()}
