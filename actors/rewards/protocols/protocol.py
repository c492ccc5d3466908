"""The interface of what reward servers speak, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from actors.rewards.items import RewardItem, RewardScore
from configs.sampling import RewardsSection


class BadAnswerError(ValueError):
    """An answer that is no answer to what was asked."""


class ScoringProtocol(Protocol):
    """Turns items into the body of one request, and its answer into scores."""

    path: str
    """Of the route that scores, with POST."""
    health_path: str | None
    """Of a route that says who answers; None where there is none."""

    def unfit(self, item: RewardItem) -> str | None:
        """Why an item cannot be asked for, machine-readable word first; None when it can."""
        ...

    def request(self, items: Sequence[RewardItem]) -> bytes:
        """The body, JSON; every item is fit, and its texts can be written in UTF-8."""
        ...

    def scores(self, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order; numbers may be non-finite. Raises `BadAnswerError`."""
        ...

    def signature(self, health: Any) -> str:
        """Names the scorer, from the answer of `health_path`, decoded. Raises `UserError` when it is not the one that the run wants."""
        ...


def open_protocol(section: RewardsSection) -> ScoringProtocol:
    """What `section.protocol` names. Raises `UserError` for a tokenizer that is missing or has no chat template.

    Those that send conversations import transformers here and not before.
    """
    if section.protocol == "native":
        from actors.rewards.protocols.native import Native

        return Native(section.scorer)
    conversation = None
    if section.tokenizes:
        from actors.rewards.scorers.checkpoint import read_conversation

        conversation = read_conversation(section)
    if section.protocol == "openrlhf":
        from actors.rewards.protocols.openrlhf import OpenRlhf

        return OpenRlhf(conversation)
    from actors.rewards.protocols.vllm import Classify, Pooling

    if conversation is None:
        raise AssertionError("the configuration refuses this protocol without a model")
    return Classify(conversation) if section.protocol == "classify" else Pooling(conversation)
