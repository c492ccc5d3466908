"""The interface of every scorer, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from actors.rewards.items import RewardItem, RewardScore
from configs.sampling import RewardsSection


class Scorer(Protocol):
    """Scores answers; called from one thread."""

    @property
    def signature(self) -> str:
        """Names the scorer exactly enough to repeat its scores."""
        ...

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order; an item that cannot be scored gets an error, and harms no other."""
        ...


@runtime_checkable
class Weighing(Protocol):
    """A scorer whose work depends on the length of an item."""

    def cost(self, item: RewardItem) -> int:
        """Tokens of the item, all of them those that `score` will compute. Called from the thread of `score`, before it."""
        ...


def cost_of(scorer: Scorer) -> Callable[[RewardItem], int]:
    """What an item costs: tokens where the scorer tells them, else 1."""
    return scorer.cost if isinstance(scorer, Weighing) else lambda _item: 1


def open_scorer(section: RewardsSection) -> Scorer:
    """The scorer that `section.scorer` names. Raises `UserError` when its checkpoint is missing or is something else.

    Model scorers import torch and transformers here and not before: a BLEU server stays small.
    """
    if section.scorer == "bleu":
        from actors.rewards.scorers.bleu import BleuScorer

        return BleuScorer()
    if section.scorer == "armorm":
        from actors.rewards.scorers.armorm import ArmoScorer

        return ArmoScorer(section)
    from actors.rewards.scorers.reward_model import RewardModelScorer

    return RewardModelScorer(section)
