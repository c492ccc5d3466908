"""Random schedules keep every promise, and the model finds what breaks one."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.walker import FailedWalkError, walk_many

SCHEDULES = 10_000
ENOUGH = 8_000
"""Schedules within which each fault that is put in on purpose has to be found."""


def test_random_schedules_keep_every_promise() -> None:
    tally = walk_many(0, SCHEDULES)
    assert tally.schedules == SCHEDULES
    assert tally.with_crash > SCHEDULES // 2
    assert tally.events > 30 * SCHEDULES


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_model_finds(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(FailedWalkError):
        walk_many(0, ENOUGH)
