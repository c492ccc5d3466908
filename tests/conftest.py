"""What holds for every test process."""

from __future__ import annotations

import os

import pytest

# Ray reads this once, when it is imported, and vLLM imports Ray: a cluster that a later test starts would be locked out.
os.environ.setdefault("RAY_AUTH_MODE", "token")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what runs for hours, unless it is asked for by name of its mark."""
    if "soak" in str(config.option.markexpr):
        return
    left_out = [item for item in items if item.get_closest_marker("soak") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
