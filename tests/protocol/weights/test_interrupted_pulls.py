"""Pulls that break off: the store restarts, the version is pruned, the fetcher dies."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from protocol.weights import pull
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient, FetchError
from protocol.weights.files import WEIGHTS, directory_of, open_version, prune, sweep, versions
from protocol.weights.partial import PartialVersion, folder_of
from tests.protocol.weights.roles import (
    ClientOf,
    Counting,
    Running,
    both_ways,
    endpoint,
    until,
    version,
)
from tests.protocol.weights.tensors import CHUNK_BYTES, tensors, write


@both_ways
def test_a_store_that_restarts_during_a_pull_is_asked_again(
    running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "ANSWER_S", 0.2)
    manifest = write(published, version(4))
    store = Counting(published, keys=keys)
    store.quiet_after = 5
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    client = client_of(fetcher)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(client.fetch(version(4), 60)))
    waiting.start()
    until(lambda: store.answered(5))
    port = int(endpoint(store).rpartition(":")[2])
    running.stop(store)
    second = running.start(Counting(published, port=port, keys=keys))
    waiting.join()
    assert answers[0].digest == manifest.digest
    assert second.manifests == 0
    assert len({index for _, index in second.chunks}) == len(manifest.chunk_checksums) - 5, "chunks that were there are not pulled again"


def test_a_version_that_is_pruned_during_its_pull_gives_way_to_the_newest(
    running: Running, published: Path, fetched: Path, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "ANSWER_S", 0.2)
    write(published, version(4))
    store = Counting(published)
    store.quiet_after = 5
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(client.fetch(version(4), 60)))
    waiting.start()
    until(lambda: store.answered(5))
    newer = write(published, version(5), seed=5)
    prune(published, 1)
    store.quiet_after = 1 << 30
    waiting.join()
    assert answers[0].policy_version == version(5)
    with open_version(Path(answers[0].directory)) as found:
        found.verify()
        assert found.manifest == newer
        assert bytes(found.tensor_bytes(newer.tensors[1])) == bytes(tensors(5)[1][3])
    assert [entry.name for entry in fetched.iterdir()] == ["0-5"]


@both_ways
def test_stopping_during_a_pull_is_prompt(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    write(published, version(4))
    store = Counting(published, keys=keys)
    store.quiet_after = 3
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    with pytest.raises(FetchError):
        client_of(fetcher).fetch(version(4), 0.5)
    running.stop(fetcher)
    assert versions(fetched) == []


def fetch_in_a_process(store: str, root: Path, told: Any) -> None:
    """What a process does that the test kills."""
    fetcher = NodeFetcher(store, root)
    threading.Thread(target=fetcher.run, daemon=True).start()
    told.send(None)
    FetcherClient(fetcher.describe()["endpoints"]["fetcher"]).fetch(version(4), 60)


def test_a_fetcher_that_is_killed_leaves_its_chunks_to_the_next(
    running: Running, published: Path, fetched: Path, client_of: ClientOf
) -> None:
    manifest = write(published, version(4))
    store = Counting(published)
    store.quiet_after = 11
    running.start(store)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=fetch_in_a_process, args=(endpoint(store), fetched, theirs))
    process.start()
    ours.recv()
    until(lambda: store.answered(11), 30)
    process.kill()
    process.join()
    assert versions(fetched) == []
    store.quiet_after, store.chunks = 1 << 30, []
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    answer = client_of(fetcher).fetch(version(4), 60)
    assert answer.digest == manifest.digest
    assert sorted(index for _, index in store.chunks) == list(range(11, len(manifest.chunk_checksums)))
    assert [entry.name for entry in fetched.iterdir()] == ["0-4"]


def test_chunks_that_a_crash_left_wrong_are_pulled_again(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    """What is taken over is known by its checksum, not by anybody's word."""
    manifest = write(published, version(4))
    content = (directory_of(published, version(4)) / WEIGHTS).read_bytes()
    left = folder_of(fetched, manifest)
    left.mkdir(parents=True)
    (left / WEIGHTS).write_bytes(content[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + content[2 * CHUNK_BYTES : 3 * CHUNK_BYTES + 1])
    stale = fetched / ".partial-0-3-0123"
    stale.mkdir()
    store = running.start(Counting(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    assert client_of(fetcher).fetch(version(4), 60).digest == manifest.digest
    assert sorted(index for _, index in store.chunks) == [1, *range(3, len(manifest.chunk_checksums))]
    assert [entry.name for entry in fetched.iterdir()] == ["0-4"]


def test_two_fetchers_of_one_folder_do_not_harm_each_other(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    """As where several of Ray's nodes are one machine."""
    manifest = write(published, version(4))
    store = Counting(published)
    store.quiet_after = 5
    running.start(store)
    first = running.start(NodeFetcher(endpoint(store), fetched))
    waiting = threading.Thread(target=client_of(first).fetch, args=(version(4), 30))
    waiting.start()
    until(lambda: store.answered(5))
    store.quiet_after = 1 << 30
    second = running.start(NodeFetcher(endpoint(store), fetched, index=1))
    assert client_of(second).fetch(version(4), 60).digest == manifest.digest
    waiting.join()
    assert (first.status()["pulls"], second.status()["pulls"]) == (1, 1)
    with open_version(directory_of(fetched, version(4))) as found:
        found.verify()


@pytest.mark.parametrize("before", ["open", "flock"])
def test_a_folder_that_is_swept_away_before_it_is_locked_is_made_again(
    published: Path, fetched: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Another fetcher of this machine takes it for one that a dead process has left."""
    manifest = write(published, version(4))
    content = (directory_of(published, version(4)) / WEIGHTS).read_bytes()
    module = os if before == "open" else fcntl
    real, swept = getattr(module, before), []

    def late(*arguments: Any, **named: Any) -> Any:
        if not swept:
            swept.append(True)
            sweep(fetched)
        return real(*arguments, **named)

    monkeypatch.setattr(module, before, late)
    partial = PartialVersion(fetched, manifest)
    monkeypatch.undo()
    assert swept
    for index in range(len(manifest.chunk_checksums)):
        assert partial.put(index, content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    with open_version(partial.commit()) as found:
        found.verify()
