"""The two ends of a weight transfer, whatever carries the bytes between them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from protocol.messages import PolicyVersion
from protocol.weights.files import TensorBytes, prune, write_version
from protocol.weights.messages import Fetched, Manifest

KEEP_VERSIONS = 2
"""The one that actors fetch, and the one before it that some may still fetch."""


class Publisher(Protocol):
    """The learner's end."""

    def publish(self, version: PolicyVersion, tensors: Iterable[TensorBytes], unchanged: Iterable[str] = ()) -> Manifest:
        """Make `version` the newest one, whole or not at all; `unchanged` names what is left out, being the starting checkpoint's."""
        ...


class Receiver(Protocol):
    """A rollout actor's end."""

    def fetch(self, version: PolicyVersion, timeout_s: float = ...) -> Fetched:
        """Have `version`, or a newer one, whole and checked on this machine, while the engine generates. Raises `FetchError`."""
        ...

    def close(self) -> None:
        """Nothing more is fetched."""
        ...


class FolderPublisher:
    """Commits versions to the folder that a weight store serves (backends `zmq` and `delta`), and keeps the newest two."""

    def __init__(self, root: Path, chunk_bytes: int) -> None:
        self._root, self._chunk_bytes = root, chunk_bytes

    def publish(self, version: PolicyVersion, tensors: Iterable[TensorBytes], unchanged: Iterable[str] = ()) -> Manifest:
        """Write and commit. What an iterator of `tensors` raises goes through; then nothing is written that a reader could see."""
        manifest = write_version(self._root, version, tensors, self._chunk_bytes, unchanged)
        prune(self._root, KEEP_VERSIONS)
        return manifest
