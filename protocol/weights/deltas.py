"""The weight store's deltas: made in a thread of its own from one version to the next, kept in memory, offered as a way of several steps.

Every version stays whole in its folder as well; a delta is a cheaper way to it for who holds an older one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from protocol.logs import get_logger
from protocol.messages import PolicyVersion
from protocol.weights.files import DamagedVersionError, OpenVersion, checksum, directory_of, open_version, versions
from protocol.weights.messages import Delta
from protocol.weights.patch import encode_block, join, width_of

SHARE = 0.5
"""Of a version's bytes: the most that the deltas to it may take together; beyond it the whole is the better way."""
BACKLOG = 3
"""Versions that wait for their delta. When more do, the oldest are passed over, since their bytes stay in memory until then."""
THREADS = min(8, max(1, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True)
class Made:
    """One delta and its bytes."""

    delta: Delta
    data: bytes
    chunk_bytes: int

    def chunk(self, index: int) -> memoryview | None:
        """One of its chunks, without a copy; None when there is none of that number."""
        start = index * self.chunk_bytes
        return memoryview(self.data)[start : start + self.chunk_bytes] if 0 <= start < len(self.data) else None


class Deltas:
    """Follows a folder of versions. `look` tells it to; all methods are thread-safe."""

    def __init__(self, root: Path, done: Callable[[], None]) -> None:
        """`done` is called, in the thread, whenever another version has been dealt with."""
        self._root, self._done = root, done
        self._made: dict[PolicyVersion, Made] = {}
        """By the version that they lead to, oldest first; each leads on from the one before it."""
        self._newest: PolicyVersion | None = None
        self._lock = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._log = get_logger("weight_store")
        self._thread = threading.Thread(target=self._run, name="weight store deltas", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """There may be a new version."""
        self._wake.set()

    def pending(self, version: PolicyVersion) -> bool:
        """True while the deltas to `version` may still come."""
        with self._lock:
            return self._thread.is_alive() and (self._newest is None or version > self._newest)

    def way(self, base: PolicyVersion, to: PolicyVersion) -> list[Delta]:
        """The deltas from `base` to `to`, in their order; none where there is no way."""
        with self._lock:
            found: list[Delta] = []
            while to != base:
                if to not in self._made:
                    return []
                found.append(self._made[to].delta)
                to = found[-1].base
            return found[::-1]

    def chunk(self, base: PolicyVersion, to: PolicyVersion, index: int) -> memoryview | None:
        """A chunk of one delta, while it is kept."""
        with self._lock:
            made = self._made.get(to)
        return made.chunk(index) if made is not None and made.delta.base == base else None

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._follow()
        except Exception:  # noqa: BLE001 - whole versions are served all the same
            self._log.exception("there will be no more deltas")

    def _follow(self) -> None:
        """Consumes: versions in the folder, in their order. Produces: deltas. Waits for: `look`. Unblocked by: `look`, `close`."""
        last: OpenVersion | None = None
        waiting: deque[OpenVersion] = deque()
        while not self._stop.is_set():
            if not waiting:
                self._wake.wait()
            self._wake.clear()
            self._open(waiting, last)
            if not waiting:
                continue
            new = waiting.popleft()
            made = self._make(last, new) if last is not None else None
            if self._stop.is_set():
                break
            self._keep(new, made)
            last = new
            self._done()

    def _open(self, waiting: deque[OpenVersion], last: OpenVersion | None) -> None:
        """Map what is new at once: its folder may be gone when its turn comes."""
        newest = waiting[-1] if waiting else last
        for version in versions(self._root):
            if newest is None or version > newest.manifest.policy_version:
                try:
                    waiting.append(open_version(directory_of(self._root, version)))
                except DamagedVersionError as error:
                    self._log.warning("no delta", policy_version=str(version), error=str(error))
        while len(waiting) > BACKLOG:
            waiting.popleft()

    def _make(self, base: OpenVersion, new: OpenVersion) -> Made | None:
        """The delta between two versions, or None when it is not worth having."""
        old, manifest = base.manifest, new.manifest
        if (old.size_bytes, old.chunk_bytes) != (manifest.size_bytes, manifest.chunk_bytes):
            return None
        left, parts = SHARE * manifest.size_bytes, []
        for part in join(self._pieces(base, new)):
            left -= len(part)
            if left < 0 or self._stop.is_set():
                return None
            parts.append(part)
        data = b"".join(parts)
        del parts
        chunks = [memoryview(data)[start : start + manifest.chunk_bytes] for start in range(0, len(data), manifest.chunk_bytes)]
        delta = Delta(old.policy_version, old.digest, manifest.policy_version, len(data), [checksum(chunk) for chunk in chunks])
        return Made(delta, data, manifest.chunk_bytes)

    def _pieces(self, base: OpenVersion, new: OpenVersion) -> Iterator[bytes]:
        width = width_of(new.manifest)
        blocks = len(new.manifest.chunk_checksums)
        with ThreadPoolExecutor(THREADS, "make delta") as pool:
            for first in range(0, blocks, 4 * THREADS):
                several = range(first, min(first + 4 * THREADS, blocks))
                yield from pool.map(lambda index: encode_block(base.chunk(index), new.chunk(index), width), several)

    def _keep(self, new: OpenVersion, made: Made | None) -> None:
        """Take the delta in; drop those from which the way would take too many bytes."""
        version, size_bytes = new.manifest.policy_version, new.manifest.size_bytes
        with self._lock:
            self._newest = version
            if made is None:
                self._made.clear()
                return
            self._made[version] = made
            left = SHARE * size_bytes
            for each in sorted(self._made, reverse=True):
                left -= self._made[each].delta.size_bytes
                if left < 0:
                    del self._made[each]
        self._log.info(
            "delta", policy_version=str(version), base=str(made.delta.base), share=round(made.delta.size_bytes / max(size_bytes, 1), 5)
        )
