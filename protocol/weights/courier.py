"""Couriers: processes that carry the bytes of a policy version by a collective. Whatever one hangs in, ending it ends that.

A courier is started as ``python <command>``, takes orders from its standard input and answers on its standard output: 4 bytes of
length, big-endian, and a message in msgpack. It ends when its input does. `actors.courier` is the one that a run uses.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

import msgspec

from protocol.errors import ProtocolError


class Join(msgspec.Struct, tag="join", frozen=True):
    """Take a seat in a group. Rank 0 listens at `host` on a free port and says which; the others connect to it."""

    host: str
    port: int
    rank: int
    size: int


class Send(msgspec.Struct, tag="send", frozen=True):
    """Rank 0: broadcast the bytes of the version in this folder."""

    directory: str


class Receive(msgspec.Struct, tag="receive", frozen=True):
    """The others: write what is broadcast into this file, unchecked."""

    file: str
    size_bytes: int


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """It is up, and this machine has what it needs."""

    device: str


class Unfit(msgspec.Struct, tag="unfit", frozen=True):
    """Its machine lacks something; it ends."""

    reason: str


class Listening(msgspec.Struct, tag="listening", frozen=True):
    """Where the others of the group connect to."""

    port: int


class Joined(msgspec.Struct, tag="joined", frozen=True):
    """All seats of the group are taken."""


class Moved(msgspec.Struct, tag="moved", frozen=True):
    """So many bytes more have been sent or received."""

    size_bytes: int


class Done(msgspec.Struct, tag="done", frozen=True):
    """The order is carried out."""


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The group is lost to this courier, which ends."""

    reason: str


Order = Join | Send | Receive
Report = Ready | Unfit | Listening | Joined | Moved | Done | Failed
Message = TypeVar("Message")
CAP_BYTES = 4096
"""Of one message: less than a pipe holds, so that giving an order never waits for one that hangs."""
REASON_CHARS = 500
"""Of `Failed` and `Unfit`."""
ABORT_S = 1.0
"""For a process that was killed to be gone."""
_ENCODER = msgspec.msgpack.Encoder()
_REPORTS: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
ORDERS: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def write(stream: IO[bytes], message: Order | Report) -> None:
    """One message. Raises `OSError` when nobody reads any more."""
    data = _ENCODER.encode(message)
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def read(stream: IO[bytes], decoder: msgspec.msgpack.Decoder[Message]) -> Message | None:
    """The next message; None at the end. Raises `ProtocolError` for what is none."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4:
        return None
    if size > CAP_BYTES:
        raise ProtocolError(f"a message of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        return None
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ProtocolError(str(error)) from error


class Courier:
    """One courier, seen from the process that started it."""

    def __init__(self, command: Sequence[str], told: Callable[[Report], None]) -> None:
        """`told` gets its reports, in a thread; the last one is `Failed` or `Unfit`, unless it was aborted."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, env=environment)
        self._orders, self._reports = self._pipes()
        self._told, self._aborted = told, False
        self._thread = threading.Thread(target=self._listen, name="courier reports", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def tell(self, order: Order) -> None:
        """Give an order; one that has ended says so by its last report."""
        with contextlib.suppress(OSError):
            write(self._orders, order)

    def abort(self, wait_s: float = ABORT_S) -> None:
        """End it, whatever it is doing. Nothing is reported after this. Returns soon after `wait_s`, whatever holds the process back."""
        self._aborted = True
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        self._thread.join(wait_s)
        for stream in () if self._thread.is_alive() else (self._orders, self._reports):
            with contextlib.suppress(OSError):
                stream.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a courier without pipes")
        return self._process.stdin, self._process.stdout

    def _listen(self) -> None:
        last: Report | None = None
        fault = "the courier ended"
        try:
            while not isinstance(last, Unfit | Failed) and (report := read(self._reports, _REPORTS)) is not None:
                last = report
                self._tell_back(report)
        except ProtocolError as error:
            fault = f"the courier's report makes no sense: {error}"
        if not isinstance(last, Unfit | Failed):
            self._tell_back(Failed(fault))

    def _tell_back(self, report: Report) -> None:
        if not self._aborted:
            self._told(report)
