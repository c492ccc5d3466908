"""Several scorers as one: the weighted sum of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from actors.rewards.items import RewardItem, RewardScore, checked
from actors.rewards.scorers.scorer import Scorer, cost_of, unwrap


class Part(NamedTuple):
    """One scorer of a combination."""

    scorer: Scorer
    weight: float
    """0: its score is kept and counts for nothing."""


class CombinationScorer:
    """Σ weight · score over the parts. Each part's score is kept by its name, what that is made of as ``name.part``."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = dict(parts)
        self._costs = [cost_of(part.scorer) for part in parts.values()]
        listed = "|".join(f"{part.weight:g}*{name}[{part.scorer.signature}]" for name, part in self._parts.items())
        self._signature = f"combination|{listed}"

    @property
    def signature(self) -> str:
        """Weights, names and signatures of the parts."""
        return self._signature

    def cost(self, item: RewardItem) -> int:
        """Of the part that it costs most."""
        return max(cost(item) for cost in self._costs)

    def instruction_of(self, prompt: str) -> str:
        """As the first part knows it that has a chat template."""
        unwrapped = (unwrap(part.scorer, prompt) for part in self._parts.values())
        return next((each for each in unwrapped if each != prompt), prompt)

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """An item that a part with a weight cannot score has no score, for that part's reason; the other parts' scores are kept."""
        scored = {name: part.scorer.score(items) for name, part in self._parts.items()}
        return [self._combined(item.id, {name: scores[index] for name, scores in scored.items()}) for index, item in enumerate(items)]

    def _combined(self, item_id: str, scores: Mapping[str, RewardScore]) -> RewardScore:
        total, reason, parts = 0.0, None, dict[str, float]()
        for name, score in ((name, checked(score)) for name, score in scores.items()):
            weight = self._parts[name].weight
            if score.score is not None:
                total += weight * score.score
                parts |= {name: score.score, **{f"{name}.{of}": value for of, value in score.parts.items()}}
            elif weight and reason is None:
                reason = f"{score.kind}: {name}: {str(score.error).removeprefix(f'{score.kind}: ')}"
        if reason is None:
            return RewardScore(item_id, total, parts)
        return RewardScore(item_id, None, parts, reason)
