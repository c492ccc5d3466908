"""What is scored, and what scoring gives: the words between a rollout actor and a reward server.

    rollout actor ──RewardItem──▶ reward server ──RewardScore──▶ rollout actor

The HTTP bodies are these dataclasses as JSON, checked by pydantic on arrival.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pydantic import BaseModel, Field, JsonValue, TypeAdapter

KIND = re.compile(r"[a-z_]{1,24}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RewardItem:
    """One answer to score."""

    id: str
    """Chosen by the asker; comes back with the score."""
    instruction: str
    """The transcript of what was spoken: scorers read text, never audio."""
    answer: str
    reference: str | None = None
    """The teacher's answer; BLEU needs it."""
    language: str = "en"
    """Of the answer; picks BLEU's tokenizer."""
    answers: tuple[str, ...] = ()
    """Further acceptable answers, which `qa` counts like the reference."""


@dataclass(frozen=True, slots=True)
class RewardScore:
    """The score of one item, or why it has none. Exactly one of `score` and `error` is None."""

    id: str
    score: float | None = None
    """Always finite. None says *unscored*, which is an outcome of its own and never a zero."""
    parts: dict[str, float] = field(default_factory=dict)
    """What the score is made of, by the scorer's own names."""
    error: str | None = None
    """Why there is no score: a machine-readable word, then a colon and the details."""

    @property
    def kind(self) -> str | None:
        """The error's machine-readable word; "other" where a foreign server gives none, so that metrics stay few."""
        if self.error is None:
            return None
        word = self.error.partition(":")[0]
        return word if KIND.fullmatch(word) else "other"


def unscored(item_id: str, reason: str) -> RewardScore:
    """The outcome of an item that got no score."""
    return RewardScore(id=item_id, error=_readable(reason))


def checked(score: RewardScore) -> RewardScore:
    """`score` itself when its numbers are finite, its texts readable, and it is either a score or an error, else an error in its place."""
    if _SURROGATE.search(f"{score.error}{''.join(score.parts)}"):
        texts = {_readable(name): value for name, value in score.parts.items()}
        score = replace(score, error=_readable(score.error), parts=texts)
    if score.error is not None:
        parts = {name: value for name, value in score.parts.items() if math.isfinite(value)}
        return score if score.score is None and len(parts) == len(score.parts) else replace(score, score=None, parts=parts)
    if score.score is None:
        return unscored(score.id, "no_score: the scorer gave neither a score nor a reason")
    if not math.isfinite(score.score) or not all(math.isfinite(part) for part in score.parts.values()):
        return unscored(score.id, f"non_finite: the scorer gave {score.score} with parts {score.parts}")
    return score


def readable(item: RewardItem) -> RewardItem:
    """`item` with question marks for lone surrogates, which neither UTF-8 nor tokenizers know."""
    texts = {each.name: getattr(item, each.name) for each in fields(item) if each.name != "id"}
    told = {name: _readable(text) for name, text in texts.items()}
    return replace(item, **told) if told != texts else item


def _readable(text: Any) -> Any:
    if isinstance(text, tuple):
        return tuple(_readable(each) for each in text)
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) and _SURROGATE.search(text) else text


# --- HTTP ---------------------------------------------------------------------------------------------------


class ScoringRequest(BaseModel):
    """Body of ``POST /v1/rewards``. Items are checked one by one, so that a bad one harms no other."""

    items: list[JsonValue] = Field(min_length=1)


class ScoringAnswer(BaseModel):
    """Answer of ``POST /v1/rewards``: one score an item, in the order of the request."""

    items: list[RewardScore]
    scorer: str
    signature: str
    """Names the scorer exactly enough to repeat its scores."""


class QueryRequest(BaseModel):
    """Body of ``POST /get_reward``, the shape of OpenRLHF's remote reward models."""

    query: list[str] = Field(min_length=1)
    """Prompt and answer as one text each."""
    prompts: list[str]
    """The prompt that each query starts with; what follows it is the answer."""
    labels: list[str | None] | None = None
    """Reference answers."""


class QueryAnswer(BaseModel):
    """Answer of ``POST /get_reward``."""

    rewards: list[float]
    scores: list[float] = []
    extra_logs: dict[str, Any] = {}


ITEM = TypeAdapter(RewardItem)
"""Validates one item of a request."""
