"""The weight store: serves committed policy versions, chunk by chunk, to any number of node fetchers.

It reads what the learner's rank 0 commits into a folder in shared memory, so that the learner's step never pushes bytes. It keeps no
state: any chunk of any version that is still there may be asked for, again and again.
"""

from __future__ import annotations

import contextlib
import os
import socket as hosts
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from protocol import logs, sockets
from protocol.codec import WEIGHTS_CAP_BYTES, WEIGHTS_CODEC, encode
from protocol.errors import ProtocolError
from protocol.gate import RevokedError, listen, receive, server_door
from protocol.keyring import Keyring
from protocol.messages import Chunk, ChunkRequest, Manifest, ManifestRequest, NotServed, PolicyVersion
from protocol.metrics import Metrics
from protocol.role import RoleDescription
from protocol.weights.files import DamagedVersionError, OpenVersion, directory_of, newest, open_version

TICK_MS = 200


class WeightStore:
    """Role `weight_store`."""

    def __init__(
        self, root: Path, bind: str = "127.0.0.1", port: int = 0, run_dir: Path | None = None, keys: Path | str | None = None
    ) -> None:
        """`keys` is the folder of the learner's machine (see `protocol.keyring`)."""
        logs.configure(run_dir, "weight_store-0")
        self._root = root
        self._metrics = Metrics("weight_store", "weight_store-0")
        door = server_door(Keyring(keys), "weights", self._metrics.refusals("weights")) if keys is not None else None
        self._context: sockets.Context = zmq.Context()
        self._socket, self._endpoint, self._gate = listen(self._context, bind, port, WEIGHTS_CAP_BYTES, "network.weights_port", door)
        self._metrics_url = self._metrics.serve(bind)
        self._mapped: dict[PolicyVersion, OpenVersion] = {}
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
        """Consumes requests. Produces manifests and chunks. Waits for a request. Unblocked by `stop`, within a tick."""
        try:
            while not self._stop.is_set():
                self._looked_s = time.monotonic()
                if self._socket.poll(TICK_MS):
                    with contextlib.suppress(RevokedError):  # counted and logged by the gate
                        self._serve(*receive(self._socket, self._gate))
            return {"served_bytes": self._served_bytes}
        finally:
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
        return {"policy_version": str(version) if version else None, "served_bytes": self._served_bytes, "quiet_s": quiet_s}

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
        answer: Manifest | Chunk | NotServed
        payload: list[bytes] = []
        match request:
            case ManifestRequest():
                answer = self._manifest(request.policy_version)
            case ChunkRequest():
                answer, payload = self._chunk(request)
            case _:
                self._log.warning("message refused", error=f"{type(request).__name__} is no request")
                return
        sockets.send(self._socket, [peer, *encode(answer, payload)])

    def _manifest(self, version: PolicyVersion | None) -> Manifest | NotServed:
        version = version or newest(self._root)
        found = self._open(version)
        if found is None:
            return self._not_served(version)
        self._metrics.set("rba_policy_version", found.manifest.policy_version.step, role="weight_store")
        return found.manifest

    def _chunk(self, request: ChunkRequest) -> tuple[Chunk | NotServed, list[bytes]]:
        found = self._open(request.policy_version)
        if found is None:
            return self._not_served(request.policy_version), []
        if not 0 <= request.index < len(found.manifest.chunk_checksums):
            return NotServed(request.policy_version, newest(self._root), f"there is no chunk {request.index}"), []
        data = found.chunk(request.index)
        self._served_bytes += len(data)
        self._metrics.inc("rba_weight_bytes_total", len(data))
        return Chunk(request.policy_version, request.index), [data]

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
