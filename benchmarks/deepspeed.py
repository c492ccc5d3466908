"""What DeepSpeed costs: the learner's step at each ZeRO stage beside the same forward pass, loss and AdamW in plain torch, on one rank.

    python -m benchmarks.deepspeed [--sizes quickstart 20M 80M] [--json FILE]

All sides train the same batch with the same collation, take turns in one process and have to give the same loss.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner import LOSS, RATE, SHORT_S, SIZES, Ours, batch, spoken, times, write_checkpoint
from benchmarks.rows import row, table
from configs.schema import LearnerSection
from learner.clips import Clips
from learner.collate import TrainingGroup, collate
from learner.engine import prepare_environment
from learner.logprobs import AnswerLogProbs, by_sequence
from learner.objective import objective
from learner.ranks import Ranks
from policies.adapter import adapter

STAGES = (0, 1, 2, 3)


class PlainTorch:
    """The learner's step without DeepSpeed."""

    def __init__(self, checkpoint: Path, items: Sequence[TrainingGroup]) -> None:
        family = adapter("qwen2_audio")
        self._processing = family.open(checkpoint)
        self._clips = Clips(spoken, self._processing)
        self._module = AnswerLogProbs(family.load_model(checkpoint, "float32"), family).train()
        self._optimizer = torch.optim.AdamW(self._module.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self._items = items

    def step(self) -> float:
        """One optimiser step, collation included. Returns the loss."""
        micro_batch = collate(self._items, self._processing, self._clips, cross_entropy=True)
        policy = by_sequence(self._module(micro_batch), micro_batch)
        loss, _ = objective(micro_batch, policy, None, LOSS, len(self._items))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


def compare(name: str, ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    """Rows of one size: seconds of a step at each stage."""
    size = SIZES[name]
    items = batch(size)
    checkpoint = write_checkpoint(folder / name, size, SHORT_S)
    sides = [PlainTorch(checkpoint, items), *(Ours(checkpoint, items, ranks, stage) for stage in STAGES)]
    plain, *staged = times([side.step for side in sides], size.repeats)
    return [
        row(f"{name}, ZeRO {stage}", "s/step", seconds, "plain torch", plain, None) for stage, seconds in zip(STAGES, staged, strict=True)
    ]


def measure(sizes: Sequence[str] = ("quickstart", "20M", "80M")) -> list[dict[str, Any]]:
    """Every row."""
    prepare_environment(LearnerSection(cpu_threads=0))
    ranks = Ranks(0, 1, "")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in sizes for row in compare(name, ranks, Path(folder))]
    ranks.close()
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["quickstart", "20M", "80M"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.sizes)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"bench": "deepspeed", "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
