"""What every reader makes of its format: records, in the order of the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.datasets.names import Reason
from protocol.errors import UserError


@dataclass(frozen=True, slots=True)
class Clip:
    """Encoded audio, in memory or in a file; with a start or a duration, a part of it."""

    content: bytes | None = None
    path: Path | None = None
    start_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One utterance as the source has it."""

    where: str
    """File and line or row, for people."""
    values: Mapping[str, Any]
    """Everything but the audio, by the source's names."""
    clip: Clip | None
    """None where the instruction is plain text."""
    key: str = ""
    """The source's own name of it."""


class RefusedError(UserError):
    """A record that cannot be taken. The import ends with it, unless its reason is one of those that are dropped."""

    def __init__(self, reason: Reason, what: str, *, where: str = "", fix: str = "") -> None:
        self.reason: Reason = reason
        super().__init__(what, where=where, fix=fix or f"correct it, or leave such rows out with --drop {reason}")
