"""Logs: one JSON object a line, one file a process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO

import structlog


def configure(run_dir: Path | None, role_id: str) -> Path | None:
    """Send this process's log lines to `<run_dir>/logs/<role_id>.jsonl`, or to standard error without a run directory."""
    path: Path | None = None
    stream: TextIO = sys.stderr
    if run_dir is not None:
        path = run_dir / "logs" / f"{role_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", buffering=1, encoding="utf-8")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(sort_keys=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=role_id)
    return path


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines say where they come from."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(part=name)
    return logger
