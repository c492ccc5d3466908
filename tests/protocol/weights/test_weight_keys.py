"""Who gets weights and who does not."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol import sockets
from protocol.keyring import Keyring
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient, FetchError
from protocol.weights.store import WeightStore
from tests.protocol.weights.roles import (
    Running,
    endpoint,
    refusals,
    until,
    version,
)
from tests.protocol.weights.tensors import write


def test_a_fetcher_whose_key_is_not_allowed_gets_no_weights(
    running: Running, published: Path, fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_MS", 300)
    write(published, version(4))
    ours, theirs = Keyring(tmp_path / "ours"), Keyring(tmp_path / "theirs")
    ours.complete()
    theirs.generate("actor")
    (theirs.folder / "server.key").write_bytes((ours.folder / "server.key").read_bytes())
    store = running.start(WeightStore(published, keys=ours.folder))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=theirs.folder))
    client = FetcherClient(fetcher.describe()["endpoints"]["fetcher"], theirs.neighbour())
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(client.fetch(version(4), 30)))
    waiting.start()
    until(lambda: refusals(store, "unknown_key", "weights"))
    assert (answers, store.status()["served_bytes"]) == ([], 0)
    ours.allow(theirs.public("actor"), "theirs")
    waiting.join()
    client.close()
    assert answers[0].policy_version == version(4)


def test_a_revoked_key_gets_no_further_chunk(running: Running, published: Path, fetched: Path, tmp_path: Path) -> None:
    write(published, version(4))
    keys = Keyring(tmp_path / "keys")
    keys.complete()
    store = running.start(WeightStore(published, keys=keys.folder))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys.folder))
    client = FetcherClient(fetcher.describe()["endpoints"]["fetcher"], keys.neighbour())
    assert client.fetch(version(4), 60).policy_version == version(4)
    keys.revoke("actor")
    until(lambda: store._gate._door.name_of(keys.public("actor")) is None)
    served = store.status()["served_bytes"]
    write(published, version(5))
    with pytest.raises(FetchError):
        client.fetch(version(5), 1.0)
    client.close()
    until(lambda: refusals(store, "revoked", "weights"))
    assert store.status()["served_bytes"] == served


def test_another_machines_actor_cannot_ask_this_machines_fetcher(running: Running, fetched: Path, tmp_path: Path) -> None:
    keys, other = Keyring(tmp_path / "keys"), Keyring(tmp_path / "other")
    keys.complete()
    other.complete()
    keys.allow(other.public("actor"), "other")
    fetcher = running.start(NodeFetcher("tcp://127.0.0.1:9", fetched, keys=keys.folder))
    client = FetcherClient(fetcher.describe()["endpoints"]["fetcher"], replace(other.neighbour(), server=keys.public("actor")))
    with pytest.raises(FetchError):
        client.fetch(version(1), 0.5)
    client.close()
    assert refusals(fetcher, "unknown_key", "fetcher")
