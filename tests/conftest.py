"""What holds for every test process, and how tests are shared out where there are several."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# Ray reads this once, when it is imported, and vLLM imports Ray: a cluster that a later test starts would be locked out.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# How long an example takes says more about what else the machine does.
hypothesis.settings.register_profile("rba", deadline=None)
hypothesis.settings.load_profile("rba")

WHOLE_MACHINE = re.compile(r"pytest\.mark\.(engine|ray|e2e)\b")
"""Marks of tests that start engines, clusters and jobs."""


class OneJobAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests share a process; all files that need the whole machine share one, beside the others."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._root = config.rootpath

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "the whole machine" if needs_machine(self._root / file) else file


@functools.cache
def needs_machine(path: Path) -> bool:
    """True for a file with tests that start engines, clusters or jobs."""
    return bool(WHOLE_MACHINE.search(path.read_text(encoding="utf-8")))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneJobAtATime(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs for hours, unless it is asked for by name of its mark."""
    if "soak" in str(config.option.markexpr):
        return
    left_out = [item for item in items if item.get_closest_marker("soak") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
