"""Versions that come as deltas: through store and fetcher, what is refused, and when the whole is pulled."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.messages import PolicyVersion
from protocol.weights import pull
from protocol.weights.deltas import SHARE
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient
from protocol.weights.files import WEIGHTS, directory_of, open_version
from protocol.weights.messages import Chunk, ChunkRequest, Manifest, ManifestRequest, NotServed
from protocol.weights.partial import PartialVersion
from protocol.weights.store import WeightStore
from protocol.weights.transfer import FolderPublisher
from tests.protocol.weights.roles import ClientOf, Counting, Running, ask, endpoint, until, version
from tests.protocol.weights.tensors import CHUNK_BYTES

SIZES = {"a": 30_000, "b": 5, "c": 20_000}


class Weights:
    """A bfloat16 model of which a share changes from version to version."""

    def __init__(self, published: Path) -> None:
        self.publisher = FolderPublisher(published, CHUNK_BYTES)
        self.rng = np.random.default_rng(0)
        self.values = {name: self.rng.integers(0, 1 << 16, size, dtype=np.uint16) for name, size in SIZES.items()}

    def publish(self, step: int, share: float = 0.01) -> Manifest:
        for values in self.values.values():
            values[self.rng.random(len(values)) < share] ^= 3
        tensors = [(name, "BF16", [len(values)], values.tobytes()) for name, values in self.values.items()]
        return self.publisher.publish(version(step), tensors)


class Offering(WeightStore):
    """A store with deltas whose chunks may be damaged, and which counts what it sends of either kind."""

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(root, port=port, deltas=True)
        self.whole: list[int] = []
        self.parts: list[int] = []
        self.damage = 0
        self.forgetful = False
        """Deltas are offered and gone when they are asked for."""
        self.silent = False
        """Chunks of deltas come without their bytes."""

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[Any]]:
        (self.whole if request.base is None else self.parts).append(request.index)
        if request.base is not None and self.forgetful and self._deltas is not None:
            with self._deltas._lock:
                self._deltas._made.clear()
        answer, payload = super()._chunk(request)
        if request.base is not None and self.silent:
            return answer, []
        if request.base is not None and self.damage and payload:
            self.damage -= 1
            flipped = bytearray(payload[0])
            flipped[len(self.parts) % len(flipped)] ^= 1 << (self.damage % 8)
            payload = [bytes(flipped)]
        return answer, payload


@pytest.fixture
def weights(published: Path) -> Weights:
    return Weights(published)


@pytest.fixture
def store(running: Running, published: Path) -> Offering:
    made: Offering = running.start(Offering(published))
    return made


@pytest.fixture
def fetcher(running: Running, store: Offering, fetched: Path) -> NodeFetcher:
    made: NodeFetcher = running.start(NodeFetcher(endpoint(store), fetched, anchor_every=16))
    return made


def same(client: FetcherClient, manifest: Manifest) -> None:
    """The version is fetched, and is the published one bit for bit."""
    answer = client.fetch(manifest.policy_version, 60)
    with open_version(Path(answer.directory)) as found:
        found.verify()
        assert found.manifest == manifest


def test_a_version_after_the_first_comes_as_a_delta(store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights) -> None:
    client = client_of(fetcher)
    same(client, weights.publish(1))
    chunks = len(store.whole)
    for step in range(2, 6):
        same(client, weights.publish(step))
    assert (fetcher.status()["pulls"], fetcher.status()["deltas"]) == (5, 4)
    assert (len(store.whole), len(store.parts)) == (chunks, 4), "each delta is one small chunk"


def test_deltas_lead_on_from_a_version_that_the_store_has_pruned(
    store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights, published: Path
) -> None:
    client = client_of(fetcher)
    same(client, weights.publish(1))
    for step in range(2, 7):
        last = weights.publish(step)
        until(lambda step=step: not store._deltas.pending(version(step)))
    assert not directory_of(published, version(1)).exists()
    same(client, last)
    assert fetcher.status()["deltas"] == 1
    assert len(store.parts) == 5


def test_every_so_many_versions_one_is_pulled_whole(
    running: Running, store: Offering, fetched: Path, client_of: ClientOf, weights: Weights
) -> None:
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, anchor_every=4))
    client = client_of(fetcher)
    whole = []
    for step in range(1, 10):
        before = fetcher.status()["deltas"]
        same(client, weights.publish(step))
        if fetcher.status()["deltas"] == before:
            whole.append(step)
    assert whole == [1, 5, 9]


def test_a_fetcher_that_starts_pulls_a_whole_version_first(
    running: Running, store: Offering, fetcher: NodeFetcher, fetched: Path, client_of: ClientOf, weights: Weights
) -> None:
    same(client_of(fetcher), weights.publish(1))
    running.stop(fetcher)
    second = running.start(NodeFetcher(endpoint(store), fetched, anchor_every=16))
    client = client_of(second)
    same(client, weights.publish(2))
    assert (second.status()["pulls"], second.status()["deltas"]) == (1, 0)
    same(client, weights.publish(3))
    assert second.status()["deltas"] == 1


def test_where_most_changed_the_whole_is_pulled_and_deltas_go_on_from_there(
    store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights
) -> None:
    client = client_of(fetcher)
    for step, share in ((1, 0.0), (2, 0.01), (3, 0.9), (4, 0.01)):
        same(client, weights.publish(step, share))
    assert (fetcher.status()["pulls"], fetcher.status()["deltas"]) == (4, 2)


def test_the_way_is_never_longer_than_half_of_the_whole(store: Offering, weights: Weights) -> None:
    manifests = []
    for step in range(1, 7):
        manifests.append(weights.publish(step, 0.1))
        store._deltas.look()
        until(lambda step=step: not store._deltas.pending(version(step)))
    sizes = [sum(delta.size_bytes for delta in store._deltas.way(each.policy_version, version(6))) for each in manifests]
    assert sizes[4] > 0
    assert sizes[0] == 0
    assert max(sizes) <= SHARE * manifests[-1].size_bytes


def test_another_base_is_refused_and_the_whole_is_pulled(
    running: Running, store: Offering, fetcher: NodeFetcher, fetched: Path, client_of: ClientOf, weights: Weights
) -> None:
    """Once its name gives it away, once only its bytes do."""
    client = client_of(fetcher)
    same(client, weights.publish(1))
    path = directory_of(fetched, version(1)) / WEIGHTS
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    same(client, weights.publish(2))
    assert (fetcher.status()["deltas"], len(store.parts)) == (0, 1)
    manifest = directory_of(fetched, version(2)) / "manifest.msgpack"
    manifest.write_bytes(manifest.read_bytes().replace(b"xxh128:", b"xxh129:"))
    same(client, weights.publish(3))
    assert (fetcher.status()["deltas"], len(store.parts)) == (0, 1)
    same(client, weights.publish(4))
    assert fetcher.status()["deltas"] == 1


def test_one_damaged_chunk_of_the_base_is_pulled_and_the_rest_is_made(
    store: Offering, fetcher: NodeFetcher, fetched: Path, client_of: ClientOf, weights: Weights
) -> None:
    client = client_of(fetcher)
    same(client, weights.publish(1))
    chunks = len(store.whole)
    path = directory_of(fetched, version(1)) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[3 * CHUNK_BYTES + 7] ^= 1
    path.write_bytes(content)
    same(client, weights.publish(2, 0.0))
    assert store.whole[chunks:] == [3]


@pytest.mark.parametrize("damage", [1, 3, 1000])
def test_a_flipped_bit_of_a_delta_is_found(
    store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights, damage: int
) -> None:
    """It is asked for again; where it stays wrong the whole is pulled."""
    client = client_of(fetcher)
    same(client, weights.publish(1))
    store.damage = damage
    same(client, weights.publish(2))
    assert fetcher.status()["deltas"] == (damage < 5)


def test_a_store_that_comes_back_has_no_deltas_and_serves_the_whole(
    running: Running, published: Path, store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights
) -> None:
    client = client_of(fetcher)
    same(client, weights.publish(1))
    running.stop(store)
    weights.publish(2)
    weights.publish(3)
    second = running.start(Offering(published, int(endpoint(store).rpartition(":")[2])))
    same(client, weights.publish(4))
    assert second.parts == []
    same(client, weights.publish(5))
    assert fetcher.status()["deltas"] == 1


def test_a_store_that_dies_within_a_delta_is_followed_by_one_that_has_none(
    running: Running, published: Path, store: Offering, fetcher: NodeFetcher, client_of: ClientOf, weights: Weights
) -> None:
    client = client_of(fetcher)
    same(client, weights.publish(1))
    manifest = weights.publish(2, 0.2)
    store.silent = True
    waiting = threading.Thread(target=same, args=(client, manifest))
    waiting.start()
    until(lambda: len(store.parts) > 3)
    running.stop(store)
    second = running.start(Counting(published, int(endpoint(store).rpartition(":")[2])))
    waiting.join()
    assert fetcher.status()["policy_version"] == str(version(2))
    assert (fetcher.status()["pulls"], fetcher.status()["deltas"]) == (2, 0)
    assert {index for _, index in second.chunks} >= set(range(len(manifest.chunk_checksums)))


def test_who_names_no_base_is_answered_at_once_and_who_names_an_unknown_one_gets_the_whole(store: Offering, weights: Weights) -> None:
    manifest = weights.publish(1)
    weights.publish(2)
    for base in (None, PolicyVersion(3, 3)):
        answer, _ = ask(store, ManifestRequest(version(1), base))
        assert answer == manifest
    answer, _ = ask(store, ManifestRequest(version(2), version(1)))
    assert [(delta.base, delta.policy_version) for delta in answer.deltas] == [(version(1), version(2))]
    for question in (
        ChunkRequest(version(2), 99, version(1)),
        ChunkRequest(version(2), -1, version(1)),
        ChunkRequest(version(2), 0, version(0)),
    ):
        assert isinstance(ask(store, question)[0], NotServed)


def test_a_delta_that_the_store_has_forgotten_is_not_followed_by_another_try(
    store: Offering, fetcher: NodeFetcher, fetched: Path, client_of: ClientOf, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several of its chunks were asked for; that none is there any more says nothing about the version itself."""
    begun: list[Manifest] = []

    class Noted(PartialVersion):
        def __init__(self, root: Path, manifest: Manifest) -> None:
            begun.append(manifest)
            super().__init__(root, manifest)

    monkeypatch.setattr(pull, "PartialVersion", Noted)
    client = client_of(fetcher)
    same(client, weights.publish(1))
    store.forgetful = True
    same(client, weights.publish(2, 0.2))
    assert len(store.parts) > 1
    assert fetcher.status()["deltas"] == 0
    assert len(begun) == 2
