from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from protocol.keyring import Keyring
from tests.protocol.links.made import Links


@pytest_asyncio.fixture
async def links(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Links]:
    keys = Keyring(tmp_path / "keys") if getattr(request, "param", False) else None
    if keys is not None:
        keys.complete()
    made = Links(keys)
    yield made
    made.close()
