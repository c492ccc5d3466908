"""Whom a rollout actor talks to: the learner, by its link, and the node fetcher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from protocol.dialogue.actor_events import Notice
from protocol.messages import GroupResult, PolicyVersion
from protocol.weights.messages import Fetched


class Link(Protocol):
    """The actor's end of the lease dialogue (see `protocol.links.actor.ActorLink`)."""

    async def next_event(self) -> Notice:
        """What the learner wants."""
        ...

    def send_results(self, results: list[GroupResult]) -> None:
        """Hand over outcomes."""
        ...

    def report(self, applied: PolicyVersion | None, generated_tokens: int) -> None:
        """What the next heartbeats tell."""
        ...

    def resize(self, capacity_groups: int) -> None:
        """How many groups the actor can hold from now on."""
        ...

    def give_back(self, keep: Sequence[int]) -> None:
        """Take no more groups, and give back all but these ordinals."""
        ...

    async def drained(self, timeout_s: float) -> bool:
        """Wait until every result is acknowledged."""
        ...


Fetch = Callable[[PolicyVersion], Awaitable[Fetched]]
"""Have a version, or a newer one, on this node. Raises `FetchError`; one call at a time."""
