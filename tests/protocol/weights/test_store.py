"""What a weight store answers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from protocol.codec import encode
from protocol.errors import UserError
from protocol.messages import Hello
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.files import directory_of, prune
from protocol.weights.messages import Chunk, ChunkRequest, Manifest, ManifestRequest, NotServed
from protocol.weights.store import WeightStore
from tests.protocol.weights.roles import (
    ClientOf,
    Running,
    ask,
    ask_and_forget,
    endpoint,
    version,
)
from tests.protocol.weights.tensors import write


def test_the_store_serves_manifest_and_chunks(running: Running, published: Path) -> None:
    manifest = write(published, version(4))
    store = running.start(WeightStore(published))
    assert ask(store, ManifestRequest())[0] == manifest
    assert ask(store, ManifestRequest(version(4)))[0] == manifest
    content = (directory_of(published, version(4)) / "weights.bin").read_bytes()
    assert ask(store, ChunkRequest(version(4), 1)) == (Chunk(version(4), 1), [content[4096:8192]])


def test_a_version_that_is_not_there_is_not_served_and_the_newest_is_named(running: Running, published: Path) -> None:
    store = running.start(WeightStore(published))
    answer, _ = ask(store, ManifestRequest())
    assert isinstance(answer, NotServed)
    assert answer.newest is None
    write(published, version(4))
    for question in (ManifestRequest(version(3)), ChunkRequest(version(3), 0)):
        answer, _ = ask(store, question)
        assert isinstance(answer, NotServed)
        assert (answer.policy_version, answer.newest) == (version(3), version(4))
    for index in (-1, 1000):
        assert isinstance(ask(store, ChunkRequest(version(4), index))[0], NotServed)


def test_a_half_written_version_is_not_served(running: Running, published: Path) -> None:
    write(published, version(1))
    store = running.start(WeightStore(published))
    directory_of(published, version(2)).mkdir()
    (directory_of(published, version(2)) / "weights.bin").write_bytes(b"half")
    assert ask(store, ManifestRequest())[0].policy_version == version(1)
    assert isinstance(ask(store, ManifestRequest(version(2)))[0], NotServed)


def test_a_pruned_version_is_not_served_although_it_was(running: Running, published: Path) -> None:
    write(published, version(1))
    store = running.start(WeightStore(published))
    assert isinstance(ask(store, ManifestRequest(version(1)))[0], Manifest)
    write(published, version(2))
    prune(published, 1)
    answer, _ = ask(store, ChunkRequest(version(1), 0))
    assert isinstance(answer, NotServed)
    assert answer.newest == version(2)


def test_rubbish_changes_nothing(running: Running, published: Path) -> None:
    write(published, version(1))
    store = running.start(WeightStore(published))
    for rubbish in ([b"hello"], [b""], [b"RBA\x09\0", b""], encode(Hello("a", 0, 1, (1, 0)))):
        ask_and_forget(store, rubbish)
    assert isinstance(ask(store, ManifestRequest())[0], Manifest)


def test_a_taken_port_is_the_users_error(running: Running, published: Path) -> None:
    store = running.start(WeightStore(published))
    port = int(endpoint(store).rpartition(":")[2])
    with pytest.raises(UserError, match=str(port)):
        WeightStore(published, port=port)


def test_both_roles_say_where_they_are_and_export_metrics(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    manifest = write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client_of(fetcher).fetch(version(4), 60)
    for role in (store, fetcher):
        described = role.describe()
        assert described["id"].startswith(described["role"])
        text = httpx.get(described["metrics_url"]).text
        assert f"rba_weight_bytes_total {float(manifest.size_bytes)}" in text
        assert f'rba_policy_version{{role="{described["role"]}"}} 4.0' in text
        assert ("rba_weight_last_success_timestamp_seconds 1" in text) == (role is fetcher)
        assert role.status()["policy_version"] == "0.4"
