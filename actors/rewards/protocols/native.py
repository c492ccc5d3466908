"""What our own reward servers speak: ``POST /v1/rewards``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from pydantic import ValidationError

from actors.rewards.items import RewardItem, RewardScore, ScoringAnswer
from actors.rewards.protocols.protocol import BadAnswerError
from protocol.errors import UserError


class Native:
    """Scores, parts and an error of each item's own (a `ScoringProtocol`)."""

    path = "/v1/rewards"
    health_path: str | None = "/health"

    def __init__(self, scorer: str) -> None:
        """`scorer`: what the servers have to score by."""
        self._scorer = scorer

    def unfit(self, item: RewardItem) -> str | None:
        """The server tells."""

    def request(self, items: Sequence[RewardItem]) -> bytes:
        """The items as they are."""
        return msgspec.json.encode({"items": [asdict(item) for item in items]})

    def scores(self, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """By the ids that were sent."""
        try:
            scores = ScoringAnswer.model_validate_json(answer).items
        except ValidationError as error:
            raise BadAnswerError(error.errors()[0]["msg"]) from None
        if [score.id for score in scores] != [item.id for item in items]:
            raise BadAnswerError("the ids are not those that were asked for")
        return scores

    def signature(self, health: Any) -> str:
        """As the server gives it."""
        try:
            scorer, signature = str(health["scorer"]), str(health["signature"])
        except (KeyError, TypeError):
            raise UserError("/health names no scorer", where="rewards.urls", fix="set rewards.protocol to what the server speaks") from None
        if scorer != self._scorer:
            raise UserError(
                f"it scores by {scorer}, the run by {self._scorer}",
                where="rewards.urls",
                fix=f"set rewards.scorer={scorer}, or name another server",
            )
        return signature
