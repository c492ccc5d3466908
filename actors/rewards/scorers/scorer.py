"""The interface of every scorer, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
    from actors.rewards.scorers.sequence_classifier import SequenceClassifierScorer

    return SequenceClassifierScorer(section)
