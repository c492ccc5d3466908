"""Broadcasts that go wrong, over gloo between real processes: everybody has the version all the same, by a pull."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.errors import UserError
from protocol.weights import fetcher, rounds, seat
from protocol.weights.broadcasts import Broadcasts
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient, FetchError
from protocol.weights.files import open_version
from tests.protocol.weights.roles import Counting, Running, endpoint, until, version
from tests.protocol.weights.tensors import write
from tests.protocol.weights.test_transfer_contract import in_group, in_thread

START_S = 90.0
"""For couriers to start, on a machine that has much else to do."""


class Fleet:
    """A store and two nodes, all in one group."""

    def __init__(self, folder: Path, running: Running, faults: dict[str, str]) -> None:
        """`faults`: which courier goes wrong in which way, once, when `strike` has been called."""
        self.published, self._mark, self._running = folder / "published", folder / "mark", running
        self._folder, self._clients = folder, list[FetcherClient]()
        self.store = running.start(Counting(self.published, courier=self._courier(faults.get("store", "none"))))
        self.nodes = [self.node(index, faults.get(f"node {index}", "none")) for index in range(2)]
        self.complete()

    def node(self, index: int, fault: str = "none") -> NodeFetcher:
        root = self._folder / f"node-{index}"
        started: NodeFetcher = self._running.start(NodeFetcher(endpoint(self.store), root, index=index, courier=self._courier(fault)))
        return started

    def complete(self, nodes: int = 2) -> None:
        until(lambda: in_group(self.store) == nodes, START_S)

    def strike(self) -> None:
        self._mark.touch()

    @property
    def struck(self) -> bool:
        return not self._mark.exists()

    def fetch(self, step: int, nodes: list[NodeFetcher] | None = None) -> list[Path]:
        """All nodes fetch at once, when the last broadcast has ended; where they have it, whole."""
        until(lambda: self.store.status()["group"] != "sending")
        clients = [FetcherClient(node.describe()["endpoints"]["fetcher"]) for node in nodes or self.nodes]
        self._clients += clients
        threads = [in_thread(lambda client=client: client.fetch(version(step), 60)) for client in clients]
        folders = []
        for thread, answers in threads:
            thread.join()
            folders.append(Path(answers[0].directory))
        for folder in folders:
            with open_version(folder) as found:
                found.verify()
                assert found.manifest.policy_version == version(step)
        return folders

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _courier(self, fault: str) -> tuple[str, ...]:
        return ("-m", "tests.protocol.weights.faulty_courier", fault, str(self._mark))


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(rounds, "SETTLE_S", 0.1)
    monkeypatch.setattr(rounds, "GATHER_S", 5.0)
    monkeypatch.setattr(rounds, "STALL_S", 1.0)
    monkeypatch.setattr(seat, "STALL_S", 1.0)
    monkeypatch.setattr(fetcher, "SEAT_S", 0.05)
    made = Fleet(tmp_path, running, getattr(request, "param", {}))
    yield made
    made.close()


def with_faults(*faults: dict[str, str]) -> Any:
    return pytest.mark.parametrize("fleet", faults, ids=str, indirect=True)


@with_faults({"node 1": "dies"}, {"node 1": "freezes"}, {"store": "freezes"})
def test_a_member_that_dies_or_hangs_within_a_broadcast_holds_nobody_up(fleet: Fleet) -> None:
    write(fleet.published, version(1), seed=1)
    fleet.fetch(1)
    assert fleet.store.chunks == [], "the first one came by broadcast"
    fleet.strike()
    write(fleet.published, version(2), seed=2)
    fleet.fetch(2)
    assert fleet.struck
    assert fleet.store.chunks, "what was missing was pulled"
    fleet.complete()
    pulled = len(fleet.store.chunks)
    write(fleet.published, version(3), seed=3)
    fleet.fetch(3)
    assert len(fleet.store.chunks) == pulled, "a new group, a new broadcast"


@with_faults({"node 0": "lies"})
def test_bytes_that_arrive_wrong_are_refused_and_pulled(fleet: Fleet) -> None:
    manifest = write(fleet.published, version(1), seed=1)
    fleet.fetch(1)
    blocks = -(-manifest.size_bytes // (16 << 10))
    assert len(fleet.store.chunks) == blocks, "one chunk of each block, by one node"
    assert f"rba_weight_chunk_errors_total {float(blocks)}" in httpx.get(fleet.nodes[0].describe()["metrics_url"]).text
    assert in_group(fleet.store) == 2


def test_late_joiners_and_nodes_that_come_back_are_served_at_once_and_then_take_part(fleet: Fleet, running: Running) -> None:
    write(fleet.published, version(1), seed=1)
    fleet.fetch(1)
    late = fleet.node(2)
    fleet.fetch(1, [late])
    assert fleet.store.chunks, "by a pull"
    running.stop(fleet.nodes[1])
    fleet.nodes = [fleet.nodes[0], fleet.node(1), late]
    until(lambda: fleet.store._broadcasts._rounds._seen.keys() >= {node._seat._member for node in fleet.nodes}, START_S)
    fleet.complete(3)
    pulled = len(fleet.store.chunks)
    write(fleet.published, version(2), seed=2)
    fleet.fetch(2)
    assert len(fleet.store.chunks) == pulled


def test_a_courier_that_is_killed_between_versions_is_replaced(fleet: Fleet) -> None:
    os.kill(fleet.nodes[0]._seat._courier.pid, signal.SIGKILL)
    until(lambda: fleet.store.status()["group"] != "ready", START_S)
    write(fleet.published, version(1), seed=1)
    fleet.fetch(1)
    assert fleet.store.chunks
    fleet.complete()


def test_stopping_within_a_broadcast_waits_for_nobody(fleet: Fleet, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for waiting in (rounds, seat):
        monkeypatch.setattr(waiting, "STALL_S", 1e9)
    os.kill(fleet.nodes[1]._seat._courier.pid, signal.SIGSTOP)
    write(fleet.published, version(1), seed=1)
    threads = [in_thread(lambda client=client: ended(client)) for client in map(client_of_node, fleet.nodes)]
    until(lambda: fleet.store.status()["group"] == "sending")
    for node in fleet.nodes:
        running.stop(node)
    for thread, _ in threads:
        thread.join()


def client_of_node(node: NodeFetcher) -> FetcherClient:
    return FetcherClient(node.describe()["endpoints"]["fetcher"])


def ended(client: FetcherClient) -> None:
    try:
        client.fetch(version(1), 2)
    except FetchError:
        pass
    finally:
        client.close()


def test_a_machine_without_what_the_courier_needs_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="torch sees no GPU on"):
        Broadcasts(("-m", "actors.courier", "nccl"), tmp_path, "127.0.0.1", lambda peer, number: None, lambda: None)
