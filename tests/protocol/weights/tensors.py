"""Policy versions small enough for tests, of several chunks."""

from __future__ import annotations

import random
from pathlib import Path

from protocol.messages import PolicyVersion
from protocol.weights.files import TensorBytes, write_version
from protocol.weights.messages import Manifest

CHUNK_BYTES = 4096
SIZES = [(7, 3), (100, 33), (1,), (64, 257)]


def tensors(seed: int = 0) -> list[TensorBytes]:
    """A few float32 tensors of random bytes; about 80 kB, or 20 chunks."""
    generator = random.Random(seed)
    made: list[TensorBytes] = []
    for number, shape in enumerate(SIZES):
        count = 1
        for size in shape:
            count *= size
        made.append((f"layer.{number}.weight", "F32", list(shape), generator.randbytes(4 * count)))
    return made


TENSORS = tensors()


def write(root: Path, version: PolicyVersion, seed: int = 0) -> Manifest:
    """Commit one version."""
    return write_version(root, version, tensors(seed), CHUNK_BYTES)
