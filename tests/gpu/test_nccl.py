"""Broadcasts by real NCCL. One GPU shows that a group comes up and takes a version, two that it arrives."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
import torch

from protocol.weights import fetcher, rounds
from protocol.weights.courier import Courier, Done, Join, Joined, Listening, Moved, Ready, Report, Send
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient
from protocol.weights.files import open_version
from tests.protocol.weights.roles import Counting, Running, endpoint, until, version
from tests.protocol.weights.tensors import write
from tests.protocol.weights.test_transfer_contract import in_group

NCCL = ("-m", "actors.courier", "nccl")
START_S = 120.0
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.mark.skipif(gpus < 1, reason="NCCL needs a GPU, and torch sees none")
def test_a_group_comes_up_and_takes_a_version(tmp_path: Path) -> None:
    write(tmp_path, version(1))
    reports: queue.Queue[Report] = queue.Queue()
    courier = Courier(NCCL, reports.put)
    try:
        assert isinstance(reports.get(timeout=START_S), Ready)
        courier.tell(Join("127.0.0.1", 0, 0, 1))
        assert isinstance(reports.get(timeout=START_S), Listening)
        assert isinstance(reports.get(timeout=START_S), Joined)
        courier.tell(Send(str(tmp_path / "0-1")))
        assert isinstance(reports.get(timeout=START_S), Moved)
        assert isinstance(reports.get(timeout=START_S), Done)
    finally:
        courier.abort()


@pytest.mark.skipif(gpus < 2, reason=f"NCCL takes no two ranks on one GPU, and torch sees {gpus}")
def test_a_version_arrives_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SETTLE_S", 0.1)
    monkeypatch.setattr(fetcher, "SEAT_S", 0.05)
    running, published = Running(), tmp_path / "published"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    store = running.start(Counting(published, courier=NCCL))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    node = running.start(NodeFetcher(endpoint(store), tmp_path / "fetched", courier=NCCL))
    client = FetcherClient(node.describe()["endpoints"]["fetcher"])
    try:
        until(lambda: in_group(store) == 1, START_S)
        for step in (1, 2):
            manifest = write(published, version(step), seed=step)
            with open_version(Path(client.fetch(version(step), 60).directory)) as found:
                found.verify()
                assert found.manifest == manifest
        assert store.chunks == []
    finally:
        client.close()
        running.close()
