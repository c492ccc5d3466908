"""Errors with names of their own.

RbaError
├── UserError        a mistake of the user: exit code 2, no traceback
└── ProtocolError    bytes or messages that this version does not understand
"""

from __future__ import annotations


class RbaError(Exception):
    """Base of every error that rba raises on purpose."""


class UserError(RbaError):
    """A user's mistake, told in one message: what is wrong, where, and what to do."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.what}{advice}"


class ProtocolError(RbaError):
    """A peer sent something that is not of this protocol."""

    reason = "other"
    """In a word, for metrics."""
