"""A step's sums → the figures that its event, its metrics and `rba status` show."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Self

from learner.intake import Batch

PHASES = ("collate", "forward", "backward", "optimizer")
"""Of a step, in their order."""


@dataclass(slots=True)
class Figures:
    """Sums over the groups of a step; they add up over micro-batches and over ranks."""

    loss: float = 0.0
    """Σ over groups of equation 5."""
    preference: float = 0.0
    """Σ over groups with pairs of L_G or L_S."""
    cross_entropy: float = 0.0
    """Σ over groups with a reference of L_CE."""
    margin: float = 0.0
    """Σ over pairs of β log V^+ − β log V^-."""
    preferred: float = 0.0
    """Pairs with a positive margin."""
    groups: float = 0.0
    groups_with_pairs: float = 0.0
    groups_with_ce: float = 0.0
    pairs: float = 0.0
    answer_tokens: float = 0.0
    computed_tokens: float = 0.0
    clips: float = 0.0
    sampler_gap: float = 0.0
    """Σ over sampled tokens of |log π by the sampler − log π_θ|: a health figure."""
    sampler_tokens: float = 0.0
    sampled: float = 0.0
    """Sampled completions that were compared with the sampler's figures."""
    off: float = 0.0
    """Those of them whose mean gap is above the alarm's threshold."""

    def add(self, other: Figures) -> None:
        """Add `other` to this."""
        for entry in fields(self):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))

    def as_list(self) -> list[float]:
        """All sums, in the order of the fields."""
        return [float(getattr(self, entry.name)) for entry in fields(self)]

    @classmethod
    def from_list(cls, values: list[float]) -> Self:
        """The inverse of `as_list`."""
        return cls(*values)


@dataclass(slots=True)
class StepFigures:
    """What one optimiser step did, over all ranks."""

    figures: Figures
    grad_norm: float
    """Before clipping; infinite when the step was skipped."""
    applied: bool
    """False when a loss or a gradient was not finite: then no rank changed its weights."""
    learning_rate: float
    seconds: dict[str, float] = field(default_factory=dict)
    """Of this rank, by phase (see `PHASES`)."""


def step_event(batch: Batch, done: StepFigures, seconds: float) -> dict[str, Any]:
    """Means over what they are means of; None where there was nothing. Losses are those of equations 1 to 8."""
    sums = done.figures
    rewards = [completion.reward for item in batch.items for completion in item.result.completions if completion.reward is not None]
    return {
        "applied": done.applied,
        "loss": {
            "total": _share(sums.loss, sums.groups),
            "preference": _share(sums.preference, sums.groups_with_pairs),
            "cross_entropy": _share(sums.cross_entropy, sums.groups_with_ce),
        },
        "margin": _share(sums.margin, sums.pairs),
        "preference_accuracy": _share(sums.preferred, sums.pairs),
        "grad_norm": done.grad_norm if math.isfinite(done.grad_norm) else None,
        "learning_rate": done.learning_rate,
        "policy_lag": {"mean": _share(sum(batch.lags), len(batch.lags)), "max": max(batch.lags, default=None)},
        "reward": _share(sum(rewards), len(rewards)),
        "sampler_logprob_gap": _share(sums.sampler_gap, sums.sampler_tokens),
        "completions_off": _share(sums.off, sums.sampled),
        "groups": int(sums.groups),
        "pairs": int(sums.pairs),
        "outcomes": dict(Counter(item.result.outcome.value for item in batch.items)),
        "answer_tokens": int(sums.answer_tokens),
        "computed_tokens": int(sums.computed_tokens),
        "seconds": {"total": seconds, **done.seconds},
        "groups_per_s": sums.groups / seconds,
        "pairs_per_s": sums.pairs / seconds,
        "tokens_per_s": sums.computed_tokens / seconds,
    }


def _share(total: float, count: float) -> float | None:
    return total / count if count else None
