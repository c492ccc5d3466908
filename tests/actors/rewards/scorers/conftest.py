"""A scripted judge for the scorers that ask one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.actors.rewards.scorers.judging import Judge, judging


@pytest.fixture
def judge() -> Iterator[Judge]:
    """An OpenAI-compatible server on a free port."""
    with judging() as server:
        yield server
