"""The weight store: serves committed policy versions, chunk by chunk, to any number of node fetchers.

It reads what the learner's rank 0 commits into a folder in shared memory, so that the learner's step never pushes bytes. It keeps no
state but deltas, which it can do without: any chunk of any version that is still there may be asked for, again and again.
"""

from __future__ import annotations

import contextlib
import os
import socket as hosts
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from protocol import logs, sockets
from protocol.codec import WEIGHTS_CAP_BYTES, WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError
from protocol.gate import RevokedError, listen, receive, server_door
from protocol.keyring import Keyring
from protocol.messages import PolicyVersion
from protocol.metrics import Metrics
from protocol.role import RoleDescription
from protocol.wakeup import Mailbox
from protocol.weights.broadcasts import Broadcasts
from protocol.weights.deltas import Deltas
from protocol.weights.files import DamagedVersionError, OpenVersion, directory_of, newest, open_version
from protocol.weights.messages import Chunk, ChunkRequest, Manifest, ManifestRequest, NotServed, Seat, SeatRequest

TICK_MS = 200
PARK_S = 10.0
"""Who asks for deltas that are being made waits so long at most; then the whole version is the better way."""


class WeightStore:
    """Role `weight_store`."""

    def __init__(
        self,
        root: Path,
        bind: str = "127.0.0.1",
        port: int = 0,
        run_dir: Path | None = None,
        keys: Path | str | None = None,
        *,
        deltas: bool = False,
        courier: Sequence[str] = (),
    ) -> None:
        """`keys` is the folder of the learner's machine (see `protocol.keyring`); with `deltas` they are offered to who holds a version.

        `courier` is the command of a courier (see `protocol.weights.courier`); with one, versions go by broadcast to fetchers that have
        one too. Raises `UserError` when this machine lacks what it needs.
        """
        logs.configure(run_dir, "weight_store-0")
        self._root = root
        self._metrics = Metrics("weight_store", "weight_store-0")
        door = server_door(Keyring(keys), "weights", self._metrics.refusals("weights")) if keys is not None else None
        self._context: sockets.Context = zmq.Context()
        self._socket, self._endpoint, self._gate = listen(self._context, bind, port, WEIGHTS_CAP_BYTES, "network.weights_port", door)
        self._metrics_url = self._metrics.serve(bind)
        self._mapped: dict[PolicyVersion, OpenVersion] = {}
        self._mailbox: Mailbox[None] = Mailbox(self._context)
        self._deltas = Deltas(root, self._wake) if deltas else None
        self._parked: dict[bytes, tuple[ManifestRequest, float]] = {}
        """Who waits for the deltas to a version, and until when."""
        self._broadcasts = Broadcasts(courier, root, bind, self._tell, self._wake) if courier else None
        self._stop = threading.Event()
        self._served_bytes = 0
        self._looked_s = time.monotonic()
        self._log = logs.get_logger("weight_store")

    def describe(self) -> RoleDescription:
        """Where it can be found."""
        return {
            "role": "weight_store",
            "id": "weight_store-0",
            "pid": os.getpid(),
            "host": hosts.gethostname(),
            "endpoints": {"weights": self._endpoint},
            "metrics_url": self._metrics_url,
        }

    def run(self) -> dict[str, Any]:
        """Consumes requests, finished deltas, the courier's reports. Produces manifests and chunks. Waits for any. Unblocked by `stop`,
        within a tick.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._mailbox.socket, zmq.POLLIN)
        try:
            while not self._stop.is_set():
                self._looked_s = time.monotonic()
                ready = dict(poller.poll(TICK_MS))
                if self._socket in ready:
                    with contextlib.suppress(RevokedError):  # counted and logged by the gate
                        self._serve(*receive(self._socket, self._gate))
                elif self._deltas is not None:
                    self._deltas.look()
                if self._broadcasts is not None:
                    self._broadcasts.tick()
                if self._mailbox.take() or self._parked:
                    self._unpark()
            return {"served_bytes": self._served_bytes}
        finally:
            if self._deltas is not None:
                self._deltas.close()
            if self._broadcasts is not None:
                self._broadcasts.close()
            self._mailbox.close()
            for version in self._mapped.values():
                version.close()
            if self._gate is not None:
                self._gate.close()
            self._context.destroy(linger=0)
            self._metrics.close()

    def status(self) -> dict[str, Any]:
        """The newest version, and bytes served."""
        version = newest(self._root)
        quiet_s = round(time.monotonic() - self._looked_s, 3)
        found = {"policy_version": str(version) if version else None, "served_bytes": self._served_bytes, "quiet_s": quiet_s}
        return found if self._broadcasts is None else {**found, "group": self._broadcasts.state, "broadcasts": self._broadcasts.sent}

    def stop(self, reason: str) -> None:
        """End `run`."""
        self._log.info("stopping", reason=reason)
        self._stop.set()

    def _serve(self, peer: bytes, *frames: bytes) -> None:
        try:
            request, _ = WEIGHTS_CODEC.decode(frames)
        except ProtocolError as error:
            self._log.warning("message refused", error=str(error))
            return
        answer: Manifest | Chunk | Seat | NotServed | None
        payload: list[memoryview] = []
        match request:
            case SeatRequest():
                answer = self._broadcasts.seat(request) if self._broadcasts is not None else Seat(0, 0, 0, 0)
            case ManifestRequest(policy_version=None, seat=SeatRequest() as seat) if self._broadcasts is not None:
                self._broadcasts.ask(seat, peer, newest(self._root))
                return
            case ManifestRequest():
                answer = self._manifest(request.policy_version)
                if isinstance(answer, Manifest) and request.base is not None and self._deltas is not None:
                    answer = self._with_deltas(self._deltas, peer, request, request.base, answer)
            case ChunkRequest():
                answer, payload = self._chunk(request)
            case _:
                self._log.warning("message refused", error=f"{type(request).__name__} is no request")
                return
        if answer is not None:
            sockets.send(self._socket, [peer, *encode(answer, payload)])

    def _tell(self, peer: bytes, round_number: int) -> None:
        """The newest version's manifest; with a round number its bytes come by broadcast."""
        answer = self._manifest(None)
        if isinstance(answer, Manifest) and round_number:
            answer = msgspec.structs.replace(answer, broadcast=round_number)
        sockets.send(self._socket, [peer, *encode(answer)])

    def _wake(self) -> None:
        """Have `run` look around; from any thread."""
        self._mailbox.put(None)

    def _with_deltas(self, deltas: Deltas, peer: bytes, request: ManifestRequest, base: PolicyVersion, whole: Manifest) -> Manifest | None:
        """The manifest with the way from `base`, or None while the deltas are being made: the peer is then answered later."""
        if deltas.pending(whole.policy_version):
            _, until_s = self._parked.setdefault(peer, (request, time.monotonic() + PARK_S))
            if time.monotonic() < until_s:
                deltas.look()
                return None
        self._parked.pop(peer, None)
        return msgspec.structs.replace(whole, deltas=deltas.way(base, whole.policy_version))

    def _unpark(self) -> None:
        """Look again at who waits."""
        for peer, (request, _) in list(self._parked.items()):
            answer: Manifest | NotServed | None = self._manifest(request.policy_version)
            if isinstance(answer, Manifest) and request.base is not None and self._deltas is not None:
                answer = self._with_deltas(self._deltas, peer, request, request.base, answer)
            if answer is not None:
                self._parked.pop(peer, None)
                sockets.send(self._socket, [peer, *encode(answer)])

    def _manifest(self, version: PolicyVersion | None) -> Manifest | NotServed:
        version = version or newest(self._root)
        found = self._open(version)
        if found is None:
            return self._not_served(version)
        self._metrics.set("rba_policy_version", found.manifest.policy_version.step, role="weight_store")
        return found.manifest

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[memoryview]]:
        if request.base is not None:
            data = self._deltas.chunk(request.base, request.policy_version, request.index) if self._deltas is not None else None
            if data is None:
                return NotServed(request.policy_version, newest(self._root), "no such delta (any more)", request.base), []
            return self._sent(request, data)
        found = self._open(request.policy_version)
        if found is None:
            return self._not_served(request.policy_version), []
        if not 0 <= request.index < len(found.manifest.chunk_checksums):
            return NotServed(request.policy_version, newest(self._root), f"there is no chunk {request.index}"), []
        return self._sent(request, found.chunk(request.index))

    def _sent(self, request: ChunkRequest, data: memoryview) -> tuple[Chunk, list[memoryview]]:
        self._served_bytes += len(data)
        self._metrics.inc("rba_weight_bytes_total", len(data))
        return Chunk(request.policy_version, request.index, request.base), [data]

    def _not_served(self, version: PolicyVersion | None) -> NotServed:
        return NotServed(version, newest(self._root), "no such version, or it was pruned")

    def _open(self, version: PolicyVersion | None) -> OpenVersion | None:
        """Map a committed version, or find it mapped. Pruned ones are unmapped, or their memory would stay taken."""
        for gone in [each for each, mapped in self._mapped.items() if not mapped.directory.is_dir()]:
            self._mapped.pop(gone).close()
        if version is not None and version not in self._mapped:
            try:
                self._mapped[version] = open_version(directory_of(self._root, version))
            except DamagedVersionError:
                return None
        return self._mapped[version] if version is not None else None
