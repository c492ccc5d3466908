"""What CURVE and the allow-list cost over loopback: messages of pairs, and policy versions, with keys beside without.

    python -m benchmarks.curve

Sender and receiver share the machine, so both sides' work counts.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from benchmarks.command import command
from benchmarks.rows import row
from protocol import sockets
from protocol.codec import DIALOGUE_CAP_BYTES, WEIGHTS_CAP_BYTES
from protocol.gate import listen, receive, server_door
from protocol.keyring import Keyring
from protocol.messages import PolicyVersion
from protocol.weights.files import write_version
from protocol.weights.pull import Pull
from protocol.weights.store import WeightStore

REPEATS = 5
MESSAGES = 10_000
MESSAGE_BYTES = (100, 4 << 10, 64 << 10)
"""A heartbeat; a group result, of some four thousand bytes; sixteen of them."""
VERSION_BYTES = 128 << 20
CHUNK_BYTES = 4 << 20
VERSION = PolicyVersion(0, 1)


def messages_per_s(size_bytes: int, keys: Keyring | None) -> float:
    """Messages from one DEALER to a listening ROUTER, each looked up in the allow-list where there are keys."""
    context: sockets.Context = zmq.Context()
    sending: sockets.Context = zmq.Context()
    door = server_door(keys, "pairs", lambda _: None) if keys is not None else None
    socket, endpoint, gate = listen(context, "127.0.0.1", 0, DIALOGUE_CAP_BYTES, "benchmark", door)
    count = MESSAGES if size_bytes < 1 << 15 else MESSAGES // 5
    client = sockets.dealer(sending, endpoint, DIALOGUE_CAP_BYTES, b"", keys.client() if keys is not None else None)
    body = os.urandom(size_bytes)

    def send() -> None:
        client.poll(10_000, zmq.POLLOUT)
        for _ in range(count + 1):
            client.send_multipart([b"RBA\x01\x00", body])

    sender = threading.Thread(target=send)
    sender.start()
    socket.poll(10_000)
    receive(socket, gate)
    started_s, left = time.perf_counter(), count
    while left:
        socket.poll(1_000)
        try:
            while left:
                receive(socket, gate)
                left -= 1
        except zmq.Again:
            pass
    seconds = time.perf_counter() - started_s
    sender.join()
    if gate is not None:
        gate.close()
    for each in (context, sending):
        each.destroy(linger=0)
    return count / seconds


def gigabytes_per_s(folder: Path, keys: Keyring | None) -> float:
    """One policy version from a weight store to a folder, checked as a fetcher checks it."""
    store = WeightStore(folder / "published", keys=keys.folder if keys is not None else None)
    serving = threading.Thread(target=store.run)
    serving.start()
    context: sockets.Context = zmq.Context()
    endpoint = store.describe()["endpoints"]["weights"]
    socket = sockets.dealer(context, endpoint, WEIGHTS_CAP_BYTES, keys=keys.client() if keys is not None else None)
    pull = Pull(socket, lambda: False)
    manifest = pull.manifest(VERSION)
    started_s = time.perf_counter()
    pull.into(folder / "fetched", manifest)
    seconds = time.perf_counter() - started_s
    context.destroy(linger=0)
    store.stop("measured")
    serving.join()
    return VERSION_BYTES / seconds / 1e9


def measure() -> list[dict[str, Any]]:
    """Every row, the best of `REPEATS` in turns."""
    rows = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        keys = Keyring(folder / "keys")
        keys.complete()
        write_version(folder / "published", VERSION, [("weight", "F32", [VERSION_BYTES // 4], os.urandom(VERSION_BYTES))], CHUNK_BYTES)
        for size_bytes in MESSAGE_BYTES:
            times = [(messages_per_s(size_bytes, keys), messages_per_s(size_bytes, None)) for _ in range(REPEATS)]
            rows.append(
                row(f"pairs, {size_bytes} B", "messages/s", max(ours for ours, _ in times), "no keys", max(t for _, t in times), None)
            )
        times = [(gigabytes_per_s(folder, keys), gigabytes_per_s(folder, None)) for _ in range(REPEATS)]
        rows.append(row("weights, 4 MiB chunks", "GB/s", max(ours for ours, _ in times), "no keys", max(t for _, t in times), None))
    return rows


if __name__ == "__main__":
    command("curve", __doc__, measure)
