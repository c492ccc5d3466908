"""A courier (see `protocol.weights.courier`) that broadcasts by torch.distributed. Edge: torch.

    python -m actors.courier nccl      between GPUs
    python -m actors.courier gloo      between CPUs

The weight store's is rank 0, each node fetcher's another one. Bytes lie in shared memory at both ends and pass through one staging
buffer; nothing is checked here, and nothing is pickled.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from protocol.weights.courier import (
    ORDERS,
    REASON_CHARS,
    Done,
    Failed,
    Join,
    Joined,
    Listening,
    Moved,
    Order,
    Ready,
    Receive,
    Report,
    Send,
    Unfit,
    read,
    write,
)
from protocol.weights.files import open_version

BLOCK_BYTES = 16 << 20
"""That one collective moves."""
TIMEOUT = timedelta(hours=1)
"""Of torch's own; who started the courier ends it long before."""
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
"""What rank 0 connects to itself by, where it listens on every address."""
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

Say = Callable[[Report], None]


class Group(Protocol):
    """One seat in a group whose rank 0 sends."""

    block: memoryview
    """Of `BLOCK_BYTES`: what rank 0 sends, and where the others find it."""

    def broadcast(self, size_bytes: int) -> None:
        """Move the first bytes of `block` from rank 0 to all. Returns when they are there."""
        ...


class TorchGroup:
    """Over a process group of torch's, through pinned memory and a GPU where the backend is nccl."""

    def __init__(self, order: Join, backend: str, say: Say) -> None:
        """Returns when all have joined."""
        device = torch.device("cuda", 0) if backend == "nccl" else None
        if order.host in LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        store = _meet(order, say)
        distributed.init_process_group(backend, store=store, rank=order.rank, world_size=order.size, timeout=TIMEOUT, device_id=device)
        self._host = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=device is not None)
        self._staging = torch.empty_like(self._host, device=device) if device is not None else self._host
        self._sends = order.rank == 0
        self.block = _view(self._host)
        self._staging[0] = 1
        distributed.all_reduce(self._staging[:1])  # the first collective connects them all
        if int(self._staging[0]) != order.size:
            raise RuntimeError("the group does not add up")

    def broadcast(self, size_bytes: int) -> None:
        """See `Group`."""
        host, staging = self._host[:size_bytes], self._staging[:size_bytes]
        if self._sends and staging is not host:
            staging.copy_(host)
        distributed.broadcast(staging, src=0)
        if not self._sends and staging is not host:
            host.copy_(staging)
        if staging.is_cuda:
            torch.cuda.synchronize()


def send(group: Group, order: Send, say: Say) -> None:
    """Rank 0: all bytes of a version."""
    with open_version(Path(order.directory)) as version:
        data = version.whole
        for at in range(0, len(data), BLOCK_BYTES):
            size = min(BLOCK_BYTES, len(data) - at)
            group.block[:size] = data[at : at + size]
            group.broadcast(size)
            say(Moved(size))
        data.release()
    say(Done())


def receive(group: Group, order: Receive, say: Say) -> None:
    """The others. The file is there, and as large as it will be."""
    with Path(order.file).open("r+b", buffering=0) as file:
        for at in range(0, order.size_bytes, BLOCK_BYTES):
            size = min(BLOCK_BYTES, order.size_bytes - at)
            group.broadcast(size)
            written = 0
            while written < size:
                written += file.write(group.block[written:size]) or 0
            say(Moved(size))
    say(Done())


def _view(tensor: torch.Tensor) -> memoryview:
    buffer: Any = tensor.numpy()
    return memoryview(buffer)


def _meet(order: Join, say: Say) -> TCPStore:
    """Where the seats find each other: at rank 0, on the address that it was told, not on all of them."""
    if order.rank:
        return TCPStore(order.host, order.port, order.size, is_master=False, timeout=TIMEOUT)
    listener = socket.create_server((order.host, 0), family=socket.AF_INET6 if ":" in order.host else socket.AF_INET)
    port = listener.getsockname()[1]
    store = TCPStore(
        ANYWHERE.get(order.host, order.host),
        port,
        order.size,
        is_master=True,
        timeout=TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    say(Listening(port))
    return store


def unfit(backend: str) -> str:
    """Why this machine cannot take part, or ""."""
    if backend == "nccl" and not torch.cuda.is_available():
        return f"torch sees no GPU on {socket.gethostname()}"
    return ""


def main() -> None:
    """Consumes: orders. Produces: reports. Waits for: an order, or the others of the group. Unblocked by: the end of its input."""
    backend = sys.argv[1]
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what torch prints is no report
    orders: queue.Queue[Order] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), daemon=True).start()

    def say(report: Report) -> None:
        write(reports, report)

    if reason := unfit(backend):
        say(Unfit(reason))
        return
    say(Ready(backend))
    try:
        _serve(orders, backend, say)
    except Exception as error:  # noqa: BLE001 - told to who started this process
        say(Failed(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:REASON_CHARS]))
    os._exit(1)  # a group that is broken may take for ever to take down


def _serve(orders: queue.Queue[Order], backend: str, say: Say) -> None:
    group: Group | None = None
    while True:
        match orders.get():
            case Join() as order:
                group = TorchGroup(order, backend, say)
                say(Joined())
            case Send() as order if group is not None:
                send(group, order, say)
            case Receive() as order if group is not None:
                receive(group, order, say)
            case order:
                raise RuntimeError(f"{type(order).__name__} without a group")


def _listen(stream: IO[bytes], orders: queue.Queue[Order]) -> None:
    try:
        while (order := read(stream, ORDERS)) is not None:
            orders.put(order)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
