"""Weight stores and fetchers in threads, over real sockets on loopback, and ways to disturb them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from protocol.codec import WEIGHTS_CODEC, encode
from protocol.messages import PolicyVersion
from protocol.weights import pull
from protocol.weights.fetcher import NodeFetcher
from protocol.weights.fetching import FetcherClient
from protocol.weights.messages import Chunk, ChunkRequest, Manifest, NotServed
from protocol.weights.store import WeightStore

both_ways = pytest.mark.parametrize("keys", [False, True], ids=["plain", "keys"], indirect=True)


def version(step: int) -> PolicyVersion:
    return PolicyVersion(0, step)


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
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
        thread.join(STOP_S)
        assert not thread.is_alive()

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


ClientOf = Callable[[NodeFetcher], FetcherClient]


STOP_S = 30.0


def endpoint(store: WeightStore) -> str:
    return store.describe()["endpoints"]["weights"]


def ask(store: WeightStore, message: Any) -> tuple[Any, list[bytes]]:
    """One question to the store, past every class of this project but the codec."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint(store))
        socket.send_multipart(message if isinstance(message, list) else encode(message))
        if not socket.poll(20_000):
            return None, []
        answer, payload = WEIGHTS_CODEC.decode(socket.recv_multipart())
        return answer, list(payload)
    finally:
        context.destroy(linger=0)


def ask_and_forget(store: WeightStore, frames: list[Any]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint(store))
    socket.send_multipart(frames)
    context.destroy(linger=1000)


class Damaging(WeightStore):
    """Flips a bit of every chunk in `damage`, once each."""

    damage: set[int]

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[Any]]:
        answer, payload = super()._chunk(request)
        if request.index in self.damage and payload:
            self.damage.discard(request.index)
            payload = [bytes([payload[0][0] ^ 4]) + bytes(payload[0][1:])]
        return answer, payload


class Counting(WeightStore):
    """Counts requests, and may hold chunks back."""

    def __init__(self, root: Path, port: int = 0, keys: Path | None = None, **options: Any) -> None:
        super().__init__(root, port=port, keys=keys, **options)
        self.manifests = 0
        self.chunks: list[tuple[PolicyVersion, int]] = []
        self.quiet_after = 1 << 30

    def answered(self, chunks: int) -> bool:
        """So many chunks have been taken in: as many more than those outstanding have been asked for."""
        return len({index for _, index in self.chunks}) >= chunks + pull.OUTSTANDING

    def _manifest(self, version: PolicyVersion | None) -> Manifest | NotServed:
        self.manifests += 1
        return super()._manifest(version)

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[Any]]:
        self.chunks.append((request.policy_version, request.index))
        answer, payload = super()._chunk(request)
        if len(self.chunks) > self.quiet_after:
            return answer, []  # nobody can use it
        return answer, payload


def refusals(role: WeightStore | NodeFetcher, reason: str, socket: str) -> bool:
    counted = f'rba_authentication_failures_total{{reason="{reason}",socket="{socket}"}}'
    return counted in httpx.get(role.describe()["metrics_url"]).text
