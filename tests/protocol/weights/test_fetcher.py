"""Versions on their way through a node fetcher to its actors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.weights import pull
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetchError
from protocol.weights.files import directory_of, open_version, prune, versions
from protocol.weights.store import WeightStore
from tests.protocol.weights.roles import (
    ClientOf,
    Counting,
    Damaging,
    Running,
    both_ways,
    endpoint,
    version,
)
from tests.protocol.weights.tensors import TENSORS, write


@both_ways
def test_a_fetched_version_is_the_published_one_bit_for_bit(
    running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None
) -> None:
    manifest = write(published, version(4))
    store = running.start(WeightStore(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    answer = client_of(fetcher).fetch(version(4), 60)
    assert (answer.policy_version, answer.digest, answer.size_bytes) == (version(4), manifest.digest, manifest.size_bytes)
    with open_version(Path(answer.directory)) as found:
        found.verify()
        assert [bytes(found.tensor_bytes(entry)) for entry in found.manifest.tensors] == [bytes(tensor[3]) for tensor in TENSORS]


def test_a_newer_version_is_as_good(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    write(published, version(4))
    write(published, version(6))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    assert client.fetch(version(4), 60).policy_version == version(6)
    assert client.fetch(version(5), 60).policy_version == version(6)
    assert fetcher.status()["pulls"] == 1


def test_an_unpublished_version_is_an_error_that_says_so(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    with pytest.raises(FetchError, match=r"0\.9"):
        client.fetch(version(9), 60)
    assert client.fetch(version(4), 60).policy_version == version(4)


def test_a_version_that_is_gone_before_the_client_looks_is_an_error_that_says_so(
    running: Running, published: Path, fetched: Path, client_of: ClientOf
) -> None:
    write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    client.fetch(version(4), 60)
    prune(fetched, 0)
    with pytest.raises(FetchError, match="0-4"):
        client.fetch(version(4), 60)


def test_without_a_fetcher_the_client_gives_up(client_of: ClientOf, fetched: Path) -> None:
    silent = NodeFetcher("tcp://127.0.0.1:9", fetched)
    with pytest.raises(FetchError, match="did not come within"):
        client_of(silent).fetch(version(1), 0.3)


@both_ways
def test_a_damaged_chunk_is_asked_again(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    write(published, version(4))
    store = Damaging(published, keys=keys)
    store.damage = {0, 7, 19}
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    with open_version(Path(client_of(fetcher).fetch(version(4), 60).directory)) as found:
        found.verify()
    assert not store.damage
    assert "rba_weight_chunk_errors_total 3.0" in httpx.get(fetcher.describe()["metrics_url"]).text


def test_weights_that_are_damaged_at_their_source_are_refused(
    running: Running, published: Path, fetched: Path, client_of: ClientOf
) -> None:
    write(published, version(4))
    path = directory_of(published, version(4)) / "weights.bin"
    path.write_bytes(b"\0" * 5000 + path.read_bytes()[5000:])
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    with pytest.raises(FetchError, match="damaged"):
        client.fetch(version(4), 60)
    assert versions(fetched) == []
    write(published, version(5))
    assert client.fetch(version(5), 60).policy_version == version(5)
    assert [entry.name for entry in fetched.iterdir()] == ["0-5"]


@both_ways
def test_two_actors_cause_one_pull(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    manifest = write(published, version(4))
    store = running.start(Counting(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    clients = [client_of(fetcher) for _ in range(4)]
    answers: list[Any] = [None] * len(clients)

    def fetch(number: int) -> None:
        answers[number] = clients[number].fetch(version(4), 60)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.directory for answer in answers}) == 1
    assert sorted(index for _, index in store.chunks) == list(range(len(manifest.chunk_checksums)))
    assert fetcher.status()["pulls"] == 1


@both_ways
def test_never_more_than_eight_chunks_are_outstanding(
    running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None
) -> None:
    write(published, version(4))
    store = Counting(published, keys=keys)
    store.quiet_after = 0
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    with pytest.raises(FetchError):
        client_of(fetcher).fetch(version(4), 1.0)
    assert len(store.chunks) == pull.OUTSTANDING


@both_ways
def test_the_fetcher_keeps_two_versions(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    store = running.start(WeightStore(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    client = client_of(fetcher)
    for step in range(4):
        write(published, version(step), seed=step)
        prune(published, 2)
        assert client.fetch(version(step), 60).policy_version == version(step)
    assert versions(fetched) == [version(2), version(3)]
    assert [entry.name for entry in sorted(fetched.iterdir())] == ["0-2", "0-3"]
