"""What vLLM's servers of reward models speak: ``POST /classify`` and ``POST /pooling`` (vllm/entrypoints/pooling).

Conversations go as token ids. Text would be tokenized there once more, where special tokens in an answer end its turn, a long answer
loses the end of the template, and `add_special_tokens`, true by default for `input`, adds a second begin-of-sequence token; with
`messages` one request carries a single conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, Field, ValidationError

from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.protocols.protocol import BadAnswerError
from actors.rewards.scorers.conversation import Conversation, UnscorableError
from protocol.errors import UserError


class _Class(BaseModel):
    index: int
    probs: list[float] = Field(min_length=1)


class _Pooled(BaseModel):
    index: int
    data: list[float] | list[list[float]] = Field(min_length=1)


class _Classes(BaseModel):
    data: list[_Class]


class _Pools(BaseModel):
    data: list[_Pooled]


Answer = TypeVar("Answer", _Classes, _Pools)


class _Vllm:
    """What both have in common."""

    path: str
    health_path: str | None = "/v1/models"

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def unfit(self, item: RewardItem) -> str | None:
        """An instruction that leaves no room for an answer."""
        try:
            self._conversation.token_ids(item.instruction, item.answer)
        except UnscorableError as error:
            return str(error)
        return None

    def request(self, items: Sequence[RewardItem]) -> bytes:
        """Without activation: vLLM's default squashes the logit of a single label by a sigmoid, which makes ties of good answers."""
        ids = [list(self._conversation.token_ids(item.instruction, item.answer)) for item in items]
        return msgspec.json.encode({"input": ids, "add_special_tokens": False, "use_activation": False})

    def signature(self, health: Any) -> str:
        """The served model's name."""
        try:
            name, longest = str(health["data"][0]["id"]), int(health["data"][0]["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError("/v1/models names no model", where="rewards.urls", fix="set rewards.protocol to what it speaks") from None
        if longest < self._conversation.max_tokens:
            raise UserError(
                f"it serves {longest} tokens, and conversations have up to {self._conversation.max_tokens}",
                where="rewards.urls",
                fix=f"start it with --max-model-len {self._conversation.max_tokens}",
            )
        return f"vllm|{name}"


class Classify(_Vllm):
    """Sequence classification with one label (a `ScoringProtocol`)."""

    path = "/classify"

    def scores(self, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """The logit of the one label."""
        scores = []
        for item, each in zip(items, _in_order(answer, _Classes, len(items)).data, strict=True):
            if len(each.probs) != 1:
                raise BadAnswerError(f"the model has {len(each.probs)} labels, and a reward model one")
            scores.append(RewardScore(item.id, each.probs[0]))
        return scores


class Pooling(_Vllm):
    """Any reward model that vLLM serves (a `ScoringProtocol`)."""

    path = "/pooling"

    def scores(self, answer: bytes, items: Sequence[RewardItem]) -> list[RewardScore]:
        """The one number of each item; of a model with a number a token, that of the last token."""
        scores = []
        for item, each in zip(items, _in_order(answer, _Pools, len(items)).data, strict=True):
            last = each.data[-1]
            numbers = last if isinstance(last, list) else [number for number in each.data if isinstance(number, float)]
            if len(numbers) != 1:
                raise BadAnswerError(f"the model gives {len(numbers)} numbers, and a reward model one")
            scores.append(RewardScore(item.id, numbers[0]))
        return scores


def _in_order(answer: bytes, shape: type[Answer], items: int) -> Answer:
    """The answer, its data sorted by index. Raises `BadAnswerError` unless there is one of each."""
    try:
        read = shape.model_validate_json(answer)
    except ValidationError as error:
        raise BadAnswerError(error.errors()[0]["msg"]) from None
    read.data.sort(key=lambda each: each.index)
    if [each.index for each in read.data] != list(range(items)):
        raise BadAnswerError("the answers are not those that were asked for")
    return read
