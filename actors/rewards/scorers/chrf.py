"""Sentence chrF against the teacher's reference, as a reward between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import CHRF

from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.scorers.references import has_reference, missing_reference


class ChrfScorer:
    """The sentence chrF2 of sacrebleu divided by 100: runs of up to six characters, without spaces, in any language."""

    def __init__(self) -> None:
        self._metric: Any = CHRF()
        self._metric.sentence_score("a", ["a"])  # a signature tells the number of references, which are known then
        self._signature = str(self._metric.get_signature())

    @property
    def signature(self) -> str:
        """The signature of sacrebleu."""
        return self._signature

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """Sentence chrF of each item; an empty answer is a plain 0, a missing reference an error."""
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> RewardScore:
        if not has_reference(item):
            return missing_reference(item, "chrF")
        return RewardScore(item.id, self._metric.sentence_score(item.answer, [item.reference]).score / 100)
