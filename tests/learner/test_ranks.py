"""Several ranks: what rank 0 says, and a whole run of two processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from learner.ranks import End, Order, Publish, Ranks, Restore, Save, Train, Wait
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, open_version
from tests.learner.groups import item_group, item_single
from tests.learner.scripted import run_config


@pytest.mark.parametrize(
    "order",
    [
        Wait(),
        Train(3, [item_group(), item_single(1)]),
        Publish(PolicyVersion(0, 7)),
        Save(7),
        Restore(from_start=False, updates=6),
        End("stopped"),
    ],
    ids=lambda order: type(order).__name__,
)
def test_orders_survive_the_wire(order: Order) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=Order) == order


def test_shares_are_disjoint_and_complete() -> None:
    batch = [item_group(number) for number in range(6)]
    ranks = [object.__new__(Ranks) for _ in range(3)]
    for number, rank in enumerate(ranks):
        rank.rank, rank.world_size = number, 3
    shares = [rank.share(batch) for rank in ranks]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert sorted(item.group.group_id for share in shares for item in share) == [item.group.group_id for item in batch]


def test_a_run_of_two_ranks(checkpoint: Path, tmp_path: Path) -> None:
    config = run_config(checkpoint, tmp_path, learner={"ranks": 2, "batch_groups": 4, "steps": 2, "publish_every": 1})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.learner.leading", str(tmp_path), str(rank), "2", master],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    for process in running:
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 0, printed.decode()[-3000:]
    closing = json.loads((tmp_path / "rank-0.json").read_text())
    assert closing["status"] == "completed"
    assert closing["learner_steps"] == 2
    assert closing["ledger"]["trained"] == 8
    assert json.loads((tmp_path / "rank-1.json").read_text()) == {"status": "completed"}
    with open_version(directory_of(tmp_path / "weights", PolicyVersion(0, 2))) as opened:
        opened.verify()
    assert (tmp_path / "run" / "checkpoints" / "step-2" / "digests.json").is_file()
