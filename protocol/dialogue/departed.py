"""Actors that are not registered any more, for when they come back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.dialogue.sequences import SequenceSet

KEPT = 1024
"""Actors that are remembered, the last ones. One that is forgotten may come back all the same: what it sends again is known by its
ordinals, and counts as a duplicate."""


@dataclass(slots=True)
class Mail:
    """What has come from one incarnation of an actor, by the sequences of its messages."""

    incarnation: int
    process: tuple[str, int]
    """Host and pid."""
    received: SequenceSet = field(default_factory=SequenceSet)
    acknowledged: SequenceSet = field(default_factory=SequenceSet)


class Departed:
    """The newest incarnation of each actor that has left."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._mail: dict[str, Mail] = {}

    def __len__(self) -> int:
        return len(self._mail)

    def put(self, actor_id: str, mail: Mail) -> None:
        """It has left."""
        self._mail.pop(actor_id, None)
        self._mail[actor_id] = mail
        if len(self._mail) > self._kept:
            del self._mail[next(iter(self._mail))]

    def get(self, actor_id: str) -> Mail | None:
        """Of its last incarnation."""
        return self._mail.get(actor_id)

    def take(self, actor_id: str) -> Mail | None:
        """It has come back."""
        return self._mail.pop(actor_id, None)
