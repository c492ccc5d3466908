"""How much memory a model takes: parameter counts, and the arithmetic of ZeRO's partitions.

Estimates for planning. They leave activations out, which grow with the batch, and what libraries keep for themselves.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import NamedTuple

from configs.schema import RunConfig

KNOWN_PARAMETERS = {
    "Qwen/Qwen2-Audio-7B-Instruct": (8_397_000_000, 637_000_000),
    "Qwen/Qwen2-Audio-7B": (8_397_000_000, 637_000_000),
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": (7_511_000_000, 0),
}
"""(parameters, of these in the audio tower) of checkpoints that are planned with before they are downloaded."""

NEVER_LOADED = ("talker.", "token2wav.")
"""Of a checkpoint that also speaks: rba loads its thinker alone."""
BYTES = {"float32": 4, "bfloat16": 2}
TYPICAL_WIDTH = 4096
"""Of a layer; W has this many rows and columns, its adapters 2 r / width as many parameters."""
_HEADER_LIMIT_BYTES = 100 << 20


class Size(NamedTuple):
    """A model's number of parameters."""

    total: int
    audio_tower: int


class LearnerMemory(NamedTuple):
    """Bytes of one learner rank."""

    weights: int
    gradients: int
    optimizer: int
    reference: int

    @property
    def total(self) -> int:
        """Of all four, without activations."""
        return sum(self)


def model_size(path: str) -> Size | None:
    """From the headers of the safetensors files in a local folder, or from the table of known names; None when neither knows."""
    if path in KNOWN_PARAMETERS:
        return Size(*KNOWN_PARAMETERS[path])
    shapes = {
        name.removeprefix("thinker."): shape
        for file in Path(path).glob("*.safetensors")
        for name, shape in _shapes(file).items()
        if not name.startswith(NEVER_LOADED)
    }
    if not shapes:
        return None
    audio = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("audio_tower."))
    return Size(sum(math.prod(shape) for shape in shapes.values()), audio)


def learner_memory(size: Size, config: RunConfig) -> LearnerMemory:
    """Per rank. ZeRO 1 divides the optimizer's states by the number of ranks, 2 the gradients too, 3 the weights too.

    In bfloat16 the optimizer keeps float32 weights beside Adam's two moments: 2 + 2 + 12 bytes a parameter; in float32 4 + 4 + 8.
    """
    learner = config.learner
    width = BYTES[learner.precision]
    if learner.lora is not None:
        trained = round((size.total - size.audio_tower) * 2 * learner.lora.r / TYPICAL_WIDTH)
    else:
        trained = size.total - (size.audio_tower if learner.freeze_audio_tower else 0)
    share = [learner.ranks if learner.zero_stage >= stage else 1 for stage in (3, 2, 1)]
    return LearnerMemory(
        weights=size.total * width // share[0],
        gradients=trained * width // share[1],
        optimizer=trained * (8 if learner.precision == "float32" else 12) // share[2],
        reference=size.total * width // share[0] if config.loss.reference_model == "frozen" else 0,
    )


def actor_weights_bytes(size: Size, config: RunConfig) -> int:
    """Of the weights of one engine, per tensor-parallel rank."""
    return size.total * BYTES[config.model.dtype] // config.rollout.engine.tensor_parallel_size


def version_bytes(size: Size, config: RunConfig) -> int:
    """Of one policy version in shared memory."""
    return size.total * BYTES[config.model.dtype]


def human(size_bytes: float) -> str:
    """Such as ``17 GB`` or ``5.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if size_bytes >= 10 or unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def _shapes(file: Path) -> dict[str, list[int]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _HEADER_LIMIT_BYTES:
            return {}
        header = json.loads(stream.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
