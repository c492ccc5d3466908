"""Learning rate by step."""

from __future__ import annotations

import math

from configs.training import LearnerSection


def learning_rate(section: LearnerSection, step: int) -> float:
    """Learning rate of optimiser step `step` (the first one is 1): linear warm-up, then constant, or down to 0 after the last step."""
    if step <= section.warmup_steps:
        return section.learning_rate * step / section.warmup_steps
    share = (step - 1 - section.warmup_steps) / max(1, section.steps - section.warmup_steps)
    match section.lr_scheduler:
        case "linear":
            return section.learning_rate * max(0.0, 1.0 - share)
        case "cosine":
            return section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        case _:
            return section.learning_rate
