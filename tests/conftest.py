"""What holds for every test process, and how tests are shared out where there are several."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
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

SHARED = {"jobs": re.compile(r"pytest\.mark\.(ray|e2e)\b"), "engines": re.compile(r"pytest\.mark\.engine\b")}
"""Files whose tests follow one another, by their marks: clusters and jobs need the whole machine, and an engine serves many files."""


class OneJobAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests share a process; so do all files that start clusters and jobs, and all that use an engine."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._root = config.rootpath

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return shared(self._root / file) or file

    # xdist 3.8 waits for ever once a process has crashed: for work that is done (pytest-xdist#1378), and for a second piece of it (#1327).

    def remove_node(self, node: Any) -> str | None:
        work = self.assigned_work[node]
        for scope in [scope for scope, tests in work.items() if all(tests.values())]:
            del work[scope]
        found: str | None = super().remove_node(node)
        return found

    def _reschedule(self, node: Any) -> None:
        super()._reschedule(node)
        if not self.workqueue and not node.shutting_down:
            node.shutdown()  # it ends when it has done what it has


@functools.cache
def shared(path: Path) -> str:
    """What a file's tests share with those of other files, or ""."""
    text = path.read_text(encoding="utf-8")
    return next((name for name, marks in SHARED.items() if marks.search(text)), "")


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


@pytest.fixture
def known_stores() -> Iterator[None]:
    """``bucket://`` and ``disk://``, which fail when they are told to, and ``memory://``: all empty."""
    from tests.protocol import stores

    stores.register()
    stores.renew()
    yield
    stores.renew()
