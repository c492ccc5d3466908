from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.keyring import Keyring
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient
from tests.protocol.weights.roles import Running


@pytest.fixture
def running() -> Iterator[Running]:
    roles = Running()
    yield roles
    roles.close()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "published"


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


@pytest.fixture
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The folder of the machine's keys, in tests that are marked `both_ways`; else none."""
    if not getattr(request, "param", False):
        return None
    Keyring(tmp_path / "keys").complete()
    return tmp_path / "keys"


@pytest.fixture
def client_of(keys: Path | None) -> Iterator[Callable[[NodeFetcher], FetcherClient]]:
    clients: list[FetcherClient] = []

    def make(fetcher: NodeFetcher) -> FetcherClient:
        neighbour = Keyring(keys).neighbour() if keys is not None else None
        clients.append(FetcherClient(fetcher.describe()["endpoints"]["fetcher"], neighbour))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
