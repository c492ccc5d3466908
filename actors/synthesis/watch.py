"""Who is told how a synthesis goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.synthesis.records import Draft


class Watch(Protocol):
    """Told of one stage after the other."""

    def begins(self, stage: str, blocks: int, total: int) -> None:
        """A stage goes on, with so many of its blocks done."""

    def block(self, stage: str, drafts: Sequence[Draft]) -> None:
        """A block has been committed; without drafts, it has been copied."""

    def ends(self, stage: str) -> None:
        """A stage has nothing more to do."""
