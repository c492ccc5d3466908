"""What OpenRLHF's remote reward models speak: ``POST /get_reward`` (openrlhf/utils/agent.py, openrlhf/cli/serve_rm.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from actors.rewards.items import QueryAnswer, RewardItem, RewardScore
from actors.rewards.protocols.protocol import BadAnswerError
from actors.rewards.scorers.conversation import Conversation


class OpenRlhf:
    """One number an item, and no error of its own (a `ScoringProtocol`)."""

    path = "/get_reward"
    health_path: str | None = None

    def __init__(self, conversation: Conversation | None) -> None:
        """`conversation` renders the queries, begin-of-sequence token and all, as OpenRLHF does; None sends the texts as they are."""
        self._conversation = conversation

    def unfit(self, item: RewardItem) -> str | None:
        """Every item can be asked for; the server shortens what is too long."""

    def request(self, items: Sequence[RewardItem]) -> bytes:
        """Each query begins with its prompt; what follows is the answer."""
        pairs = [self._rendered(item) for item in items]
        return msgspec.json.encode(
            {
                "query": [query for _, query in pairs],
                "prompts": [prompt for prompt, _ in pairs],
                "labels": [item.reference for item in items],
            }
        )

    def scores(self, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """In the order of the request, for there are no ids."""
        try:
            rewards = QueryAnswer.model_validate_json(answer).rewards
        except ValidationError as error:
            raise BadAnswerError(error.errors()[0]["msg"]) from None
        if len(rewards) != len(items):
            raise BadAnswerError(f"{len(rewards)} rewards for {len(items)} items")
        return [RewardScore(item.id, reward) for item, reward in zip(items, rewards, strict=True)]

    def signature(self, health: Any) -> str:  # noqa: ARG002 - there is no such route
        """Nobody tells what such a server scores by."""
        return "openrlhf"

    def _rendered(self, item: RewardItem) -> tuple[str, str]:
        if self._conversation is not None:
            return self._conversation.rendered(item.instruction, item.answer)
        return item.instruction, f"{item.instruction}\n{item.answer}"
