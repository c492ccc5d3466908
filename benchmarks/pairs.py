"""Durable pairs from rollout actors to the learner's queue: the real link, exchange and journal, with simulated actors.

    python -m benchmarks.pairs [--folder DIR] [--json FILE]

A message is one group's result, of pairs that have 4 KiB each. It counts once it is synced to disk, acknowledged and queued for a step.
The actors are one process, the learner's end is another. Both peers carry the same messages and decode them: a Redis stream that syncs
every write, on the same disk, and Ray's queue, which keeps nothing. Sides take turns, and the medians are compared. Without `--folder` a
temporary one is used; it has to lie on a real disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import command
from benchmarks.exchange import rayqueue, redis
from benchmarks.exchange.endpoint import Endpoint
from benchmarks.exchange.fleet import Shape, finished, start
from benchmarks.exchange.load import Load
from benchmarks.rows import row
from learner.journal.disk import PosixDisk
from learner.journal.records import Received
from learner.journal.recovery import read_all
from protocol.logs import configure

GOAL = 20_000
"""Pairs a second, at eight pairs a message."""
ACTORS, CAPACITY, BATCH, LAG = 4, 32, 256, 3
OUTSTANDING = ACTORS * CAPACITY
"""Messages on their way, of either side."""
WARM_S, MEASURED_S, TURNS = 1.0, 3.0, 3


def ours(folder: Path, pairs: int) -> float:
    """Durable pairs a second; every one that an actor saw acknowledged is in the journal."""
    with Endpoint(folder, Load(pairs), BATCH, LAG) as learner:
        fleet = start(learner.link.endpoint, Shape(ACTORS, CAPACITY, 0.0, pairs))
        try:
            rate = learner.rate(WARM_S, MEASURED_S)
            learner.close()
            seen = finished(fleet)
        finally:
            fleet.kill()
        ledger = learner.exchange.account()
    written = sum(isinstance(record, Received) for _, record in read_all(PosixDisk(folder)).records())
    if (
        not seen.acknowledged <= written == ledger["unique"]
        or ledger["duplicate"]
        or ledger["dropped_reasons"].keys() - {"stopped", "stale"}
    ):
        raise RuntimeError(f"{seen.acknowledged} results were acknowledged, {written} are in the journal, the ledger says {ledger}")
    return rate


def measure(folder: Path | None = None) -> list[dict[str, Any]]:
    """Every row."""
    rows = []
    for pairs in (8, 1):
        rates: dict[str, list[float]] = {"ours": [], "redis": []}
        for _ in range(TURNS):
            with tempfile.TemporaryDirectory(dir=folder) as inside:
                configure(Path(inside), "pairs")
                rates["ours"].append(ours(Path(inside) / "journal", pairs))
                if redis.installed():
                    rates["redis"].append(pairs * redis.messages_per_s(Path(inside), OUTSTANDING, pairs, WARM_S, MEASURED_S))
        rate, size = statistics.median(rates["ours"]), f"{pairs} pair{'s' * (pairs > 1)} a message"
        if pairs == 8:
            rows.append(row(size, "pairs/s", rate, "goal", GOAL, 1.0))
        if rates["redis"]:
            rows.append(row(size, "pairs/s", rate, "Redis stream, synced", statistics.median(rates["redis"]), 1.0))
        else:
            print("no redis-server on PATH: its row is left out (Debian: apt-get install redis-server)", file=sys.stderr)
        theirs = statistics.median(pairs * rayqueue.messages_per_s(OUTSTANDING, pairs, WARM_S, MEASURED_S) for _ in range(TURNS))
        rows.append(row(size, "pairs/s", rate, "Ray's queue, not durable", theirs, 10.0))
    return rows


if __name__ == "__main__":
    command("pairs", __doc__, measure, {"folder": {"type": Path}})
