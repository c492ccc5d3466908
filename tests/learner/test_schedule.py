from __future__ import annotations

import pytest

from configs.training import LearnerSection
from learner.schedule import learning_rate


def rates(**settings: object) -> list[float]:
    section = LearnerSection(steps=10, learning_rate=2.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(section, step) for step in range(1, 11)]


def test_constant() -> None:
    assert rates() == [2.0] * 10


def test_warm_up_rises_to_the_full_rate() -> None:
    assert rates(warmup_steps=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_decay_starts_full_and_ends_above_zero_only_before_the_end(shape: str) -> None:
    found = rates(lr_scheduler=shape, warmup_steps=2)
    assert found[2] == 2.0
    assert found == sorted(found[:2]) + sorted(found[2:], reverse=True)
    assert 0 < found[-1] < 0.5
