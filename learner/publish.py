"""A new policy version on disk, where the weight store finds it. Edge: torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.engine import Engine
from protocol.errors import RbaError
from protocol.messages import PolicyVersion
from protocol.weights.messages import Manifest
from protocol.weights.transfer import FolderPublisher, Publisher

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

Buffers = Iterator[tuple[str, str, list[int], memoryview]]


class NamesDifferError(RbaError):
    """The tensors about to be published are not those of the checkpoint that the run started from."""

    def __init__(self, missing: set[str], extra: set[str]) -> None:
        super().__init__(f"published names differ from the checkpoint's: missing {sorted(missing)}, extra {sorted(extra)}")


def publish(engine: Engine, root: Path, version: PolicyVersion, names: set[str], dtype: str, chunk_bytes: int) -> Manifest:
    """Write `version` into `root`, in the released layout, and drop all but the newest two. Rank 0 calls it while the others `gather`.

    Tensors that are not trained are named and left out: actors have them from the starting checkpoint.
    Raises `NamesDifferError` unless exactly the tensors `names` are there; then nothing is written that a reader could see.
    """
    unchanged = names - engine.trained_names
    tensors = checked(engine.tensors(dtype, trained=True), names - unchanged)
    publisher: Publisher = FolderPublisher(root, chunk_bytes)
    return publisher.publish(version, tensors, unchanged)


def gather(engine: Engine, dtype: str, *, trained: bool = False) -> None:
    """The other ranks' part of a checkpoint, and with `trained` of `publish`: take part in every gathering, keep nothing."""
    deque(engine.tensors(dtype, trained=trained), maxlen=0)


def checked(tensors: Iterable[tuple[str, Tensor]], names: set[str]) -> Buffers:
    """Tensors as (name, safetensors dtype, shape, bytes).

    Raises `NamesDifferError` at the first name that is unknown or comes twice, and at the end when some are missing.
    """
    missing = set(names)
    for name, tensor in tensors:
        if name not in missing:
            raise NamesDifferError(set(), {name})
        missing.remove(name)
        yield name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), _bytes(tensor)
    if missing:
        raise NamesDifferError(missing, set())


def _bytes(tensor: Tensor) -> memoryview:
    buffer: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(buffer)
