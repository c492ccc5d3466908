"""Store, fetcher and client over real sockets on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from protocol import sockets
from protocol.codec import WEIGHTS_CODEC, encode
from protocol.errors import UserError
from protocol.keyring import Keyring
from protocol.messages import Chunk, ChunkRequest, Hello, Manifest, ManifestRequest, NotServed, PolicyVersion
from protocol.weights import pull
from protocol.weights.fetcher import FetcherClient, FetchError, NodeFetcher
from protocol.weights.files import directory_of, open_version, prune, versions
from protocol.weights.store import WeightStore
from tests.protocol.weights.tensors import TENSORS, tensors, write


def version(step: int) -> PolicyVersion:
    return PolicyVersion(0, step)


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come to pass"
        time.sleep(0.005)


class Running:
    """Roles in threads, stopped in the reverse order of their start; an error of theirs is the test's."""

    def __init__(self) -> None:
        self._started: list[tuple[Any, threading.Thread]] = []
        self.errors: list[BaseException] = []

    def start(self, role: Any) -> Any:
        thread = threading.Thread(target=self._run, args=(role,), daemon=True)
        thread.start()
        self._started.append((role, thread))
        return role

    def stop(self, role: Any) -> None:
        thread = next(thread for started, thread in self._started if started is role)
        role.stop("test")
        asked_s = time.monotonic()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - asked_s < 1.0

    def close(self) -> None:
        for role, thread in reversed(self._started):
            if thread.is_alive():
                self.stop(role)
        if self.errors:
            raise self.errors[0]

    def _run(self, role: Any) -> None:
        try:
            role.run()
        except BaseException as error:  # noqa: BLE001 - raised again by close
            self.errors.append(error)


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


both_ways = pytest.mark.parametrize("keys", [False, True], ids=["plain", "keys"], indirect=True)


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


ClientOf = Callable[[NodeFetcher], FetcherClient]


def endpoint(store: WeightStore) -> str:
    return store.describe()["endpoints"]["weights"]


def ask(store: WeightStore, message: Any) -> tuple[Any, list[bytes]]:
    """One question to the store, past every class of this project but the codec."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint(store))
        socket.send_multipart(message if isinstance(message, list) else encode(message))
        if not socket.poll(2_000):
            return None, []
        answer, payload = WEIGHTS_CODEC.decode(socket.recv_multipart())
        return answer, list(payload)
    finally:
        context.destroy(linger=0)


# --- the store ---


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


def ask_and_forget(store: WeightStore, frames: list[Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint(store))
    socket.send_multipart(frames)
    context.destroy(linger=1000)


def test_a_taken_port_is_the_users_error(running: Running, published: Path) -> None:
    store = running.start(WeightStore(published))
    port = int(endpoint(store).rpartition(":")[2])
    with pytest.raises(UserError, match=str(port)):
        WeightStore(published, port=port)


def test_both_roles_say_where_they_are_and_export_metrics(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    manifest = write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client_of(fetcher).fetch(version(4), 10)
    for role in (store, fetcher):
        described = role.describe()
        assert described["id"].startswith(described["role"])
        text = httpx.get(described["metrics_url"]).text
        assert f"rba_weight_bytes_total {float(manifest.size_bytes)}" in text
        assert f'rba_policy_version{{role="{described["role"]}"}} 4.0' in text
        assert role.status()["policy_version"] == "0.4"


# --- fetching ---


@both_ways
def test_a_fetched_version_is_the_published_one_bit_for_bit(
    running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None
) -> None:
    manifest = write(published, version(4))
    store = running.start(WeightStore(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    answer = client_of(fetcher).fetch(version(4), 10)
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
    assert client.fetch(version(4), 10).policy_version == version(6)
    assert client.fetch(version(5), 10).policy_version == version(6)
    assert fetcher.status()["pulls"] == 1


def test_an_unpublished_version_is_an_error_that_says_so(running: Running, published: Path, fetched: Path, client_of: ClientOf) -> None:
    write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    with pytest.raises(FetchError, match=r"0\.9"):
        client.fetch(version(9), 10)
    assert client.fetch(version(4), 10).policy_version == version(4)


def test_a_version_that_is_gone_before_the_client_looks_is_an_error_that_says_so(
    running: Running, published: Path, fetched: Path, client_of: ClientOf
) -> None:
    write(published, version(4))
    store = running.start(WeightStore(published))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched))
    client = client_of(fetcher)
    client.fetch(version(4), 10)
    prune(fetched, 0)
    with pytest.raises(FetchError, match="0-4"):
        client.fetch(version(4), 10)


def test_without_a_fetcher_the_client_gives_up(client_of: ClientOf, fetched: Path) -> None:
    silent = NodeFetcher("tcp://127.0.0.1:9", fetched)
    with pytest.raises(FetchError, match="did not come within"):
        client_of(silent).fetch(version(1), 0.3)


class Damaging(WeightStore):
    """Flips a bit of every chunk in `damage`, once each."""

    damage: set[int]

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[bytes]]:
        answer, payload = super()._chunk(request)
        if request.index in self.damage and payload:
            self.damage.discard(request.index)
            payload = [bytes([payload[0][0] ^ 4]) + payload[0][1:]]
        return answer, payload


@both_ways
def test_a_damaged_chunk_is_asked_again(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    write(published, version(4))
    store = Damaging(published, keys=keys)
    store.damage = {0, 7, 19}
    running.start(store)
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    with open_version(Path(client_of(fetcher).fetch(version(4), 10).directory)) as found:
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
        client.fetch(version(4), 10)
    assert versions(fetched) == []
    write(published, version(5))
    assert client.fetch(version(5), 10).policy_version == version(5)
    assert [entry.name for entry in fetched.iterdir()] == ["0-5"]


class Counting(WeightStore):
    """Counts requests, and may hold chunks back."""

    def __init__(self, root: Path, port: int = 0, keys: Path | None = None) -> None:
        super().__init__(root, port=port, keys=keys)
        self.manifests = 0
        self.chunks: list[tuple[PolicyVersion, int]] = []
        self.quiet_after = 1 << 30

    def _manifest(self, version: PolicyVersion | None) -> Manifest | NotServed:
        self.manifests += 1
        return super()._manifest(version)

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[bytes]]:
        self.chunks.append((request.policy_version, request.index))
        answer, payload = super()._chunk(request)
        if len(self.chunks) > self.quiet_after:
            return answer, []  # nobody can use it
        return answer, payload


@both_ways
def test_two_actors_cause_one_pull(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    manifest = write(published, version(4))
    store = running.start(Counting(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    clients = [client_of(fetcher) for _ in range(4)]
    answers: list[Any] = [None] * len(clients)

    def fetch(number: int) -> None:
        answers[number] = clients[number].fetch(version(4), 10)

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
    waiting = threading.Thread(target=lambda: answers.append(client.fetch(version(4), 20)))
    waiting.start()
    until(lambda: len(store.chunks) > 8)
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
    waiting = threading.Thread(target=lambda: answers.append(client.fetch(version(4), 20)))
    waiting.start()
    until(lambda: len(store.chunks) > 8)
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
def test_the_fetcher_keeps_two_versions(running: Running, published: Path, fetched: Path, client_of: ClientOf, keys: Path | None) -> None:
    store = running.start(WeightStore(published, keys=keys))
    fetcher = running.start(NodeFetcher(endpoint(store), fetched, keys=keys))
    client = client_of(fetcher)
    for step in range(4):
        write(published, version(step), seed=step)
        prune(published, 2)
        assert client.fetch(version(step), 10).policy_version == version(step)
    assert versions(fetched) == [version(2), version(3)]
    assert [entry.name for entry in sorted(fetched.iterdir())] == ["0-2", "0-3"]


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
    assert list(fetched.iterdir()) == []


# --- keys ---


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
    assert client.fetch(version(4), 10).policy_version == version(4)
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


def refusals(role: WeightStore | NodeFetcher, reason: str, socket: str) -> bool:
    counted = f'rba_authentication_failures_total{{reason="{reason}",socket="{socket}"}}'
    return counted in httpx.get(role.describe()["metrics_url"]).text
