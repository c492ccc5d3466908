"""Weight transfer: the pull beside a bare TCP copy, several nodes at once, deltas beside whole versions, the pause beside vLLM's loading.

    python -m benchmarks.weights [--only pull nodes actors delta steps pause] [--json FILE]

Store and fetchers are processes of their own, as in a run; versions lie in shared memory. Sides take turns, and the best of some turns
counts. The parts `steps` and `pause` are `benchmarks.weight_steps` and `benchmarks.weight_pause`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import command
from benchmarks.rows import row
from protocol.messages import PolicyVersion
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient
from protocol.weights.files import WEIGHTS, directory_of
from protocol.weights.store import WeightStore
from protocol.weights.transfer import FolderPublisher

CHUNK_BYTES = 4 << 20
VERSION_BYTES = 256 << 20
TENSORS = 16
REPEATS = 5
NODES = ACTORS = 4
SHARES = (0.01, 0.1, 1.0)
MEMORY = "/dev/shm"  # noqa: S108 - where versions lie in a run
ANCHOR_EVERY = 1 << 30
_spawn = multiprocessing.get_context("spawn")


def _serve(kind: str, arguments: dict[str, Any], told: Connection) -> None:
    """A role in this process until the pipe closes; says where it is."""
    role: Any = {"store": WeightStore, "fetcher": NodeFetcher}[kind](**arguments)
    told.send(role.describe()["endpoints"])

    def wait() -> None:
        try:
            while told.poll(None):
                told.recv()
                told.send(role.status() | {"cpu_seconds": time.process_time()})
        except EOFError:
            role.stop("measured")

    threading.Thread(target=wait, daemon=True).start()
    role.run()


class Running:
    """A store or a fetcher in a process of its own."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_serve, args=(kind, arguments, theirs))
        self._process.start()
        theirs.close()
        self.endpoint: str = next(iter(self._pipe.recv().values()))

    def status(self) -> dict[str, Any]:
        """The role's figures, and its processor time."""
        self._pipe.send(None)
        found: dict[str, Any] = self._pipe.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


class Fleet:
    """A store and some nodes over one folder; publishes versions of made-up weights in bfloat16."""

    def __init__(self, folder: Path, nodes: int, stack: ExitStack, *, deltas: bool = False) -> None:
        self.folder, self._published = folder, folder / "published"
        self._publisher = FolderPublisher(self._published, CHUNK_BYTES)
        self.store = Running("store", root=self._published, deltas=deltas)
        stack.callback(self.store.close)
        self.fetchers = []
        for node in range(nodes):
            arguments = {"store_endpoint": self.store.endpoint, "root": folder / f"node-{node}", "index": node}
            self.fetchers.append(Running("fetcher", **arguments, anchor_every=ANCHOR_EVERY if deltas else 0))
            stack.callback(self.fetchers[-1].close)
        self.clients = [FetcherClient(fetcher.endpoint) for fetcher in self.fetchers]
        for client in self.clients:
            stack.callback(client.close)
        self.version = PolicyVersion(0, 0)

    def publish(self, values: np.ndarray) -> PolicyVersion:
        """One more version."""
        self.version = PolicyVersion(0, self.version.step + 1)
        parts = np.array_split(values, TENSORS)
        self._publisher.publish(self.version, [(f"w{n}", "BF16", [len(each)], each.data.cast("B")) for n, each in enumerate(parts)])
        return self.version

    @property
    def file(self) -> Path:
        """The bytes of the newest version."""
        return directory_of(self._published, self.version) / WEIGHTS

    def cpu_seconds(self) -> float:
        """Of the store and the fetchers."""
        return sum(float(each.status()["cpu_seconds"]) for each in (self.store, *self.fetchers))


@contextmanager
def fleet(nodes: int, *, deltas: bool = False) -> Iterator[Fleet]:
    """A fleet that ends with the block."""
    with ExitStack() as stack:
        yield Fleet(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))), nodes, stack, deltas=deltas)


def weights(size_bytes: int = VERSION_BYTES) -> np.ndarray:
    """Random bfloat16 numbers, as their bits."""
    return np.random.default_rng(0).integers(0, 1 << 16, size_bytes // 2, dtype=np.uint16)


def one_by_one(clients: Sequence[FetcherClient], version: PolicyVersion) -> float:
    """Seconds until each has fetched, one after the other."""
    started = time.perf_counter()
    for client in clients:
        client.fetch(version)
    return time.perf_counter() - started


def at_once(clients: Sequence[FetcherClient], version: PolicyVersion) -> float:
    """Seconds until all have fetched at the same time."""
    threads = [threading.Thread(target=client.fetch, args=(version,)) for client in clients]
    started = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return time.perf_counter() - started


def _send(path: str, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection, Path(path).open("rb") as file:
        content = np.memmap(file, np.uint8, "r")
        connection.recv(1)
        connection.sendall(content.data)


def bare_copy(source: Path, target: Path) -> float:
    """Seconds to bring a file to another one over a TCP connection between two processes; nothing is checked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = _spawn.Process(target=_send, args=(str(source), server.getsockname()[1]))
        sender.start()
        connection, _ = server.accept()
    buffer, left = memoryview(bytearray(CHUNK_BYTES)), source.stat().st_size
    started = time.perf_counter()
    with connection, target.open("wb", buffering=0) as file:
        connection.sendall(b"!")
        while left:
            size = connection.recv_into(buffer)
            file.write(buffer[:size])
            left -= size
    seconds = time.perf_counter() - started
    sender.join()
    target.unlink()
    return seconds


def pull() -> list[dict[str, Any]]:
    """One node pulls, checksums and digest included, beside a bare copy of the same bytes; and the processor time of both ends."""
    values = weights()
    with fleet(1) as made:
        made.clients[0].fetch(made.publish(values))
        before, times = made.cpu_seconds(), []
        for turn in range(REPEATS):
            ours = one_by_one(made.clients, made.publish(values))
            times.append((ours, bare_copy(made.file, made.folder / f"bare-{turn}")))
        cpu_seconds = (made.cpu_seconds() - before) / REPEATS
    best, theirs = (VERSION_BYTES / min(side) / 1e9 for side in zip(*times, strict=True))
    return [
        row("pull, checked", "GB/s", best, "bare TCP copy, unchecked", theirs, 0.5),
        row("pull, processor time of both ends", "s/GB", cpu_seconds / VERSION_BYTES * 1e9, "wall time of the bare copy", 1 / theirs, None),
    ]


def nodes() -> list[dict[str, Any]]:
    """Four nodes at once beside the same four one after the other."""
    values = weights()
    with fleet(NODES) as made:
        times = [(at_once(made.clients, made.publish(values)), one_by_one(made.clients, made.publish(values))) for _ in range(REPEATS)]
    best, theirs = (min(side) for side in zip(*times, strict=True))
    return [row(f"{NODES} nodes at once", "s", best, "one after the other", theirs, 1.3)]


def actors() -> list[dict[str, Any]]:
    """Pulls that four actors of one node cause, beside one actor's."""
    with fleet(1) as made, ExitStack() as stack:
        clients = [*made.clients, *(FetcherClient(made.fetchers[0].endpoint) for _ in range(ACTORS - 1))]
        for client in clients[1:]:
            stack.callback(client.close)
        one_by_one(made.clients, made.publish(weights()))
        alone = made.fetchers[0].status()["pulls"]
        at_once(clients, made.publish(weights()))
        together = made.fetchers[0].status()["pulls"] - alone
    return [row(f"{ACTORS} actors of a node", "pulls", together, "one actor", alone, 1.0)]


def fetched(made: Fleet, values: np.ndarray) -> tuple[float, int]:
    """Publish and fetch: seconds from the one to the other's end, bytes that the store sent."""
    before = made.store.status()["served_bytes"]
    seconds = one_by_one(made.clients, made.publish(values))
    return seconds, made.store.status()["served_bytes"] - before


def delta() -> list[dict[str, Any]]:
    """Bytes and seconds of a delta beside the whole version, by the share of elements that changed; making it is included."""
    rows = []
    rng = np.random.default_rng(1)
    with fleet(1, deltas=True) as ours, fleet(1) as whole:
        values = weights()
        for each in (ours, whole):
            each.clients[0].fetch(each.publish(values))
        for share in SHARES:
            taken = []
            for _ in range(REPEATS):
                values = values.copy()
                changed = rng.random(len(values)) < share
                values[changed] ^= rng.integers(1, 8, int(changed.sum()), dtype=np.uint16)
                taken.append((*fetched(ours, values), *fetched(whole, values)))
            seconds, size, their_seconds, their_size = (min(column) for column in zip(*taken, strict=True))
            case = f"delta, {share:.0%} changed"
            rows.append(row(case, "MB", size / 1e6, "whole version", their_size / 1e6, None))
            rows.append(row(case, "s", seconds, "whole version", their_seconds, None))
    return rows


def rows_of(module: str) -> list[dict[str, Any]]:
    """What another module measures."""
    rows: list[dict[str, Any]] = importlib.import_module(module).measure()
    return rows


def apart(module: str) -> list[dict[str, Any]]:
    """The rows of another module, from a process of its own."""
    with ProcessPoolExecutor(1, _spawn) as process:
        return process.submit(rows_of, module).result()


CASES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "pull": pull,
    "nodes": nodes,
    "actors": actors,
    "delta": delta,
    "steps": lambda: apart("benchmarks.weight_steps"),
    "pause": lambda: apart("benchmarks.weight_pause"),
}


def measure(only: Sequence[str] = tuple(CASES)) -> list[dict[str, Any]]:
    """Every row."""
    return [each for name in only for each in CASES[name]()]


if __name__ == "__main__":
    command("weights", __doc__, measure, {"only": {"nargs": "+", "choices": CASES, "default": list(CASES)}})
