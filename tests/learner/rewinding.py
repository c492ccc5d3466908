"""Takes steps, goes back in the running engine and goes on, in a process of its own.

``python -m tests.learner.rewinding OUT CHECKPOINT RANK WORLD MASTER``

What rank 0 finds at each moment goes to ``OUT/CASE-MOMENT.safetensors``: the optimiser's tensors by ``KIND/NAME``, and as ``model/NAME``
what forward and backward read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from configs.training import LearnerSection
from learner.clips import Clips
from learner.collate import TrainingGroup
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from learner.training_state import SavedTensors
from policies.adapter import adapter
from tests.learner.conftest import spoken
from tests.learner.groups import item_group, item_single
from tests.learner.stepping import BASE, LOSS, batch, keep

CASES: dict[str, dict[str, Any]] = {
    "stage3-float32": {"zero_stage": 3, "precision": "float32"},
    "stage3-bfloat16": {"zero_stage": 3, "precision": "bfloat16"},
    "stage3-frozen": {"zero_stage": 3, "precision": "bfloat16", "freeze_audio_tower": True},
    "stage3-adapters": {"zero_stage": 3, "precision": "bfloat16", "lora": {"r": 4}},
    "stage2-bfloat16": {"zero_stage": 2, "precision": "bfloat16"},
    "stage1-bfloat16": {"zero_stage": 1, "precision": "bfloat16"},
    "stage0-float32": {"zero_stage": 0, "precision": "float32"},
    "stage0-bfloat16": {"zero_stage": 0, "precision": "bfloat16"},
}
POISONED = 99


def heard(audio: str) -> Any:
    """The clips of one group are not finite."""
    return np.full(20_000, np.nan, np.float32) if audio.startswith(f"{POISONED}-") else spoken(audio)


def poisoned() -> list[TrainingGroup]:
    """Four groups, of which rank 1's share has the one that no loss survives."""
    return [item_group(0), item_single(POISONED), item_group(2), item_group(3)]


class Walk:
    """One engine and what is written about it."""

    def __init__(self, out: Path, checkpoint: Path, ranks: Ranks, case: str, saved: SavedTensors | None = None, updates: int = 0) -> None:
        self._out, self._ranks, self._case = out, ranks, case
        family = adapter("qwen2_audio")
        processing = family.open(checkpoint)
        section = LearnerSection(**{**BASE, **CASES[case]})
        self.engine = Engine(section, LOSS, family, checkpoint, processing, Clips(heard, processing), ranks, saved=saved, updates=updates)

    def step(self, number: int, items: Sequence[TrainingGroup] = ()) -> bool:
        return self.engine.step(self._ranks.share(list(items) or batch()), number).applied

    def look(self, moment: str) -> None:
        found: dict[str, Tensor] = {f"model/{name}": tensor for name, tensor in self.engine.tensors("float32")}
        found |= dict(self.engine.training_state.gathered())
        if self._ranks.rank == 0:
            save_file(found, self._out / f"{self._case}-{moment}.safetensors")


def run(out: Path, checkpoint: Path, ranks: Ranks) -> None:
    """Every case, one after the other."""
    for case in CASES:
        walk = Walk(out, checkpoint, ranks, case)
        walk.look("start")
        assert walk.step(1)
        walk.look("first")
        assert walk.step(2)
        walk.look("second")
        folder = out / case
        keep(walk.engine, folder, ranks)
        assert walk.step(3)
        assert not walk.step(4, poisoned())
        walk.look("later")
        walk.engine.restore(SavedTensors(folder if ranks.rank == 0 else None, ranks), 2)
        assert walk.engine.training_state.updates == 2
        walk.look("second-again")
        assert walk.step(5)
        walk.look("fifth")
        fresh = Walk(out, checkpoint, ranks, case, SavedTensors(folder, ranks), updates=2)
        assert fresh.step(5)
        fresh.look("fifth-fresh")
        walk.engine.restore(None, 0)
        walk.look("start-again")
        assert walk.step(1)
        walk.look("first-again")


if __name__ == "__main__":
    prepare_environment(LearnerSection(**BASE))
    group_of_ranks = Ranks(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    run(Path(sys.argv[1]), Path(sys.argv[2]), group_of_ranks)
    group_of_ranks.close()
