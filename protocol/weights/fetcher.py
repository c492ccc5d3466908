"""The node fetcher: brings policy versions to its node once, whoever on the node asks for them.

rollout actor ──FetchRequest──▶ fetcher ──ManifestRequest, ChunkRequest──▶ weight store
              ◀────Fetched─────         ◀──────Manifest, Chunk────────────
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket as hosts
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq

from protocol import logs, sockets
from protocol.codec import DIALOGUE_CAP_BYTES, WEIGHTS_CAP_BYTES, WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError
from protocol.gate import RevokedError, listen, neighbour_door, receive
from protocol.keyring import Keyring
from protocol.messages import PolicyVersion
from protocol.metrics import Metrics
from protocol.role import RoleDescription
from protocol.wakeup import Mailbox
from protocol.weights.files import DamagedVersionError, OpenVersion, directory_of, newest, open_version, prune
from protocol.weights.messages import Fetched, FetchRequest, Manifest, NotServed
from protocol.weights.pull import Pull, PullStoppedError, VersionGoneError
from protocol.weights.seat import GroupSeat

KEEP = 2
"""Versions that stay in shared memory: the one that is applied, and the one before."""
TICK_MS = 200
ATTEMPTS = 5
"""Versions that are tried, one newer than the other, before the store is said to prune too fast."""
SEAT_S = 1.0
"""Between two words to the weight store that this node is there for broadcasts."""
Answer = Fetched | NotServed


class NodeFetcher:
    """Role `fetcher`. Two threads: `run` answers actors, one pulls."""

    def __init__(
        self,
        store_endpoint: str,
        root: Path,
        bind: str = "127.0.0.1",
        port: int = 0,
        run_dir: Path | None = None,
        index: int = 0,
        keys: Path | str | None = None,
        anchor_every: int = 0,
        courier: Sequence[str] = (),
        metrics_bind: str = "127.0.0.1",
    ) -> None:
        """`keys` is the folder of this machine (see `protocol.keyring`). Of `anchor_every` versions in a row one is pulled whole, the
        others by deltas where the store offers them; 0 pulls all of them whole.

        `bind` is for the actors of this machine, `metrics_bind` for Prometheus. `courier` is the command of a courier (see
        `protocol.weights.courier`), for versions that the store broadcasts. Raises `UserError` when this machine lacks what it needs.
        """
        self._anchor_every, self._since_anchor = anchor_every, anchor_every
        self._id = f"fetcher-{index}"
        logs.configure(run_dir, self._id)
        self._root, self._store_endpoint = root, store_endpoint
        self._metrics = Metrics("fetcher", self._id)
        self._metrics.declare("rba_weight_push_seconds", stage=("fetch",))
        self._keys = Keyring(keys).client() if keys is not None else None
        door = neighbour_door(Keyring(keys), "fetcher", self._metrics.refusals("fetcher")) if keys is not None else None
        self._context: sockets.Context = zmq.Context()
        self._socket, self._endpoint, self._gate = listen(self._context, bind, port, DIALOGUE_CAP_BYTES, "the node fetcher", door)
        self._mailbox: Mailbox[Answer] = Mailbox(self._context)
        self._wanted: queue.Queue[PolicyVersion | None] = queue.Queue()
        self._metrics_url = self._metrics.serve(metrics_bind)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        life, host = f"{self._id}:{time.time_ns()}", urlsplit(store_endpoint).hostname or ""
        self._seat = GroupSeat(courier, life, host, self._stop.is_set) if courier else None
        self._asking: dict[bytes, PolicyVersion] = {}
        self._held: Fetched | None = None
        self._pulling = False
        self._pulls = self._deltas = 0
        self._looked_s = time.monotonic()
        self._log = logs.get_logger("fetcher")

    def describe(self) -> RoleDescription:
        """Where it can be found."""
        return {
            "role": "fetcher",
            "id": self._id,
            "pid": os.getpid(),
            "host": hosts.gethostname(),
            "endpoints": {"fetcher": self._endpoint},
            "metrics_url": self._metrics_url,
        }

    def run(self) -> dict[str, Any]:
        """Consumes actors' requests and finished pulls. Produces answers. Waits for either. Unblocked by `stop`, within a tick."""
        puller = threading.Thread(target=self._pull_loop, name="fetcher pull", daemon=True)
        puller.start()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                poller.poll(TICK_MS)
                self._looked_s = time.monotonic()
                self._finished(self._mailbox.take())
                self._requests()
                if self._failure is not None:
                    raise self._failure
            return self._figures()
        finally:
            self._stop.set()
            self._wanted.put(None)
            puller.join(5)
            if self._seat is not None:
                self._seat.close()
            if self._gate is not None:
                self._gate.close()
            self._mailbox.close()
            self._context.destroy(linger=0)
            self._metrics.close()

    def status(self) -> dict[str, Any]:
        """The version in shared memory."""
        return {
            "policy_version": str(self._held.policy_version) if self._held else None,
            **self._figures(),
            "quiet_s": round(time.monotonic() - self._looked_s, 3),
        }

    def _figures(self) -> dict[str, int]:
        figures = {"pulls": self._pulls, "deltas": self._deltas}
        return figures if self._seat is None else {**figures, "broadcasts": self._seat.broadcasts}

    def stop(self, reason: str) -> None:
        """End `run`."""
        self._log.info("stopping", reason=reason)
        self._stop.set()

    def _requests(self) -> None:
        while True:
            try:
                peer, *frames = receive(self._socket, self._gate)
            except zmq.Again:
                break
            except RevokedError:
                continue
            try:
                message, _ = WEIGHTS_CODEC.decode(frames)
            except ProtocolError as error:
                self._log.warning("message refused", error=str(error))
                continue
            if isinstance(message, FetchRequest):
                self._asking[peer] = message.policy_version
        self._answer()

    def _answer(self) -> None:
        """Answer whom the held version serves; pull once for all the others."""
        held = self._held
        if held is not None:
            for peer in [peer for peer, wanted in self._asking.items() if wanted <= held.policy_version]:
                del self._asking[peer]
                sockets.send(self._socket, [peer, *encode(held)])
        if self._asking and not self._pulling:
            self._pulling = True
            self._wanted.put(max(self._asking.values()))

    def _finished(self, answers: list[Answer]) -> None:
        for answer in answers:
            self._pulling = False
            if isinstance(answer, Fetched):
                self._held = answer
                continue
            for peer in self._asking:
                sockets.send(self._socket, [peer, *encode(answer)])
            self._asking.clear()

    def _pull_loop(self) -> None:
        """Consumes wanted versions. Produces folders in shared memory. Waits for a wish. Unblocked by `run` when it ends."""
        socket = sockets.dealer(self._context, self._store_endpoint, WEIGHTS_CAP_BYTES, keys=self._keys)
        try:
            while (version := self._next(socket)) is not None:
                self._mailbox.put(self._pull(socket, version))
        except Exception as error:  # noqa: BLE001 - surfaces in run
            if not self._stop.is_set():
                self._failure = error
        finally:
            socket.close(linger=0)

    def _next(self, socket: sockets.Socket) -> PolicyVersion | None:
        """The next wish; until it comes the store hears that this node is there for broadcasts."""
        if self._seat is None:
            return self._wanted.get()
        pull = Pull(socket, self._stop.is_set)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._wanted.get(timeout=SEAT_S)
            request = self._seat.request
            if request is None:
                return self._wanted.get()
            with contextlib.suppress(PullStoppedError):
                if (seat := pull.seat(request)) is not None:
                    self._seat.take(seat)

    def _pull(self, socket: sockets.Socket, version: PolicyVersion) -> Answer:
        """`version`, or the newest one where that is newer: the store may have pruned what was asked for."""
        started_s = time.monotonic()
        pull = Pull(socket, self._stop.is_set)
        for _ in range(ATTEMPTS):
            try:
                with contextlib.closing(self._base()) as base:
                    seat = self._seat if self._seat is not None and not self._has(version) else None
                    manifest = pull.manifest(None, base.policy_version, seat.request if seat is not None else None)
                    if manifest.policy_version < version:
                        manifest = pull.manifest(version, base.policy_version)
                    directory = directory_of(self._root, manifest.policy_version)
                    if not self._holds(manifest):
                        pull.into(self._root, manifest, base.opened, seat.receive if seat is not None and manifest.broadcast else None)
                        self._pulled(pull)
            except VersionGoneError as gone:
                if gone.newest is None or gone.newest < version:
                    return NotServed(version, gone.newest, str(gone))
                continue
            except DamagedVersionError as damaged:
                self._log.error("pulled version is damaged", error=str(damaged))
                continue
            except PullStoppedError as stopped:
                return NotServed(version, None, str(stopped), store_answers=False)
            seconds = time.monotonic() - started_s
            self._count(manifest, pull, seconds)
            prune(self._root, KEEP)
            return Fetched(manifest.policy_version, str(directory), manifest.digest, manifest.size_bytes, seconds)
        return NotServed(version, None, f"{ATTEMPTS} pulls in a row found their version pruned or damaged")

    def _base(self) -> Base:
        """The version that deltas may build on; none when the next pull has to be a whole one, as the first one of a process is."""
        held = newest(self._root) if self._since_anchor + 1 < self._anchor_every else None
        if held is None:
            return Base(None)
        try:
            return Base(open_version(directory_of(self._root, held)))
        except DamagedVersionError:
            return Base(None)

    def _has(self, version: PolicyVersion) -> bool:
        """That version, or a newer one, is here, perhaps from an earlier life: no round waits for this node then."""
        held = newest(self._root)
        return held is not None and held >= version

    def _holds(self, manifest: Manifest) -> bool:
        try:
            with open_version(directory_of(self._root, manifest.policy_version)) as found:
                return found.manifest.digest == manifest.digest
        except DamagedVersionError:
            return False

    def _pulled(self, pull: Pull) -> None:
        self._pulls += 1
        self._deltas += pull.by_delta
        self._since_anchor = self._since_anchor + 1 if pull.by_delta else 0

    def _count(self, manifest: Manifest, pull: Pull, seconds: float) -> None:
        version = manifest.policy_version
        self._metrics.inc("rba_weight_bytes_total", pull.bytes)
        self._metrics.inc("rba_weight_chunk_errors_total", pull.bad_chunks)
        self._metrics.inc("rba_weight_pushes_total")
        self._metrics.succeeded("rba_weight_last_success_timestamp_seconds")
        self._metrics.observe("rba_weight_push_seconds", seconds, stage="fetch")
        self._metrics.set("rba_policy_version", version.step, role="fetcher")
        figures = {"size_bytes": manifest.size_bytes, "pulled_bytes": pull.bytes, "delta": pull.by_delta, "seconds": round(seconds, 4)}
        self._log.info("fetched", policy_version=str(version), **figures)


class Base:
    """The version that a pull may build on, if any."""

    def __init__(self, opened: OpenVersion | None) -> None:
        self.opened = opened

    @property
    def policy_version(self) -> PolicyVersion | None:
        """Its name."""
        return self.opened.manifest.policy_version if self.opened is not None else None

    def close(self) -> None:
        """Unmap it."""
        if self.opened is not None:
            self.opened.close()
