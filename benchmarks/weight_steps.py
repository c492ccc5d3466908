"""How much of a bfloat16 model changes from one step of a real run to the next, as deltas have it: a learner at its default learning rate.

    python -m benchmarks.weight_steps [--size 26M] [--steps 12] [--json FILE]

Random weights at the size's dimensions, groups of four voices, preference loss and λ times the cross-entropy, Adam in float32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import command
from benchmarks.learner import SHORT_S, SIZES, SPOKEN
from benchmarks.rows import row
from benchmarks.sides import LOSS, section_for
from benchmarks.speechlm import batch, write_checkpoint
from learner.clips import Clips
from learner.engine import Engine, prepare_environment
from learner.publish import publish
from learner.ranks import Ranks
from policies.adapter import adapter
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, open_version
from protocol.weights.patch import encode_block, join, width_of

LEARNING_RATE = 1e-6
CHUNK_BYTES = 4 << 20
STEPS = 12


def share(base: Path, new: Path) -> tuple[int, int]:
    """Bytes of the delta between two versions, and of the whole one."""
    with open_version(base) as old, open_version(new) as later:
        manifest = later.manifest
        pieces = (encode_block(old.chunk(index), later.chunk(index), width_of(manifest)) for index in range(len(manifest.chunk_checksums)))
        return sum(len(part) for part in join(pieces)), manifest.size_bytes


def measure(size: str = "26M", steps: int = STEPS, groups: int = 2) -> list[dict[str, Any]]:
    """A row each of the first step's delta and of the mean of the others."""
    section = section_for(groups, precision="bfloat16", zero_stage=0, learning_rate=LEARNING_RATE, cpu_threads=1)
    prepare_environment(section)
    ranks, family, found = Ranks(0, 1, ""), adapter("qwen2_audio"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = write_checkpoint(folder / "model", SIZES[size].size, SHORT_S)
        processing = family.open(checkpoint)
        engine = Engine(section, LOSS, family, checkpoint, processing, Clips(SPOKEN, processing), ranks)
        items, names = batch(groups * steps), family.checkpoint_names(checkpoint)
        for step in range(steps + 1):
            if step:
                engine.step(items[groups * (step - 1) : groups * step], step)
            publish(engine, folder / "published", PolicyVersion(0, step), names, "bfloat16", CHUNK_BYTES)
            if step:
                here = (directory_of(folder / "published", PolicyVersion(0, each)) for each in (step - 1, step))
                found.append(share(*here))
    ranks.close()
    whole = found[0][1] / 1e6
    case = f"delta of a step at lr {LEARNING_RATE:g}, {size}"
    later = sum(delta for delta, _ in found[1:]) / len(found[1:]) / 1e6
    return [
        row(f"{case}, first step", "MB", found[0][0] / 1e6, "whole version", whole, 0.1),
        row(f"{case}, mean of steps 2 to {steps}", "MB", later, "whole version", whole, 0.1),
    ]


if __name__ == "__main__":
    command("weight-steps", __doc__, measure, {"size": {"choices": SIZES, "default": "26M"}, "steps": {"type": int, "default": STEPS}})
