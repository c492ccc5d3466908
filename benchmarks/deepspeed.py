"""What DeepSpeed costs: the learner's step at each ZeRO stage beside the same forward pass, loss and AdamW in plain torch, on one rank.

    python -m benchmarks.deepspeed [--sizes quickstart 26M 115M] [--json FILE]

All sides train the same batch with the same collation, take turns in one process and have to give the same loss.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.command import command
from benchmarks.learner import SHORT_S, SIZES, SPOKEN, Side, ours, times
from benchmarks.rows import row
from benchmarks.sides import LOSS, RATE
from benchmarks.speechlm import batch, write_checkpoint
from configs.training import LearnerSection
from learner.clips import Clips
from learner.collate import TrainingGroup, collate
from learner.engine import prepare_environment
from learner.logprobs import AnswerLogProbs, by_sequence
from learner.objective import objective
from learner.ranks import Ranks
from policies.adapter import adapter

STAGES = (0, 1, 2, 3)
DEFAULT = ("quickstart", "26M", "115M")


class PlainTorch:
    """The learner's step without DeepSpeed."""

    def __init__(self, checkpoint: Path, items: Sequence[TrainingGroup]) -> None:
        family = adapter("qwen2_audio")
        self._processing = family.open(checkpoint)
        self._clips = Clips(SPOKEN, self._processing)
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


def with_linear(side: Side, linear: Callable[..., Any]) -> Side:
    """The side with its own `torch.nn.functional.linear`: ZeRO 3 puts another one in its place for the whole process."""

    def step() -> float:
        functional.linear = linear
        return side()

    return step


def compare(name: str, ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    """Rows of one size: seconds of a step at each stage."""
    case = SIZES[name]
    items = batch(case.groups)
    checkpoint = write_checkpoint(folder / name, case.size, SHORT_S)
    sides: list[Side] = [with_linear(PlainTorch(checkpoint, items).step, functional.linear)]
    for stage in STAGES:
        side = ours(checkpoint, items, ranks, zero_stage=stage)
        sides.append(with_linear(side.step, functional.linear))
    plain, *staged = times(sides, case.repeats)
    return [row(f"{name}, ZeRO {stage}", "s/step", taken, "plain torch", plain, None) for stage, taken in zip(STAGES, staged, strict=True)]


def measure(sizes: Sequence[str] = DEFAULT) -> list[dict[str, Any]]:
    """Every row."""
    prepare_environment(LearnerSection(cpu_threads=0))
    ranks = Ranks(0, 1, "")
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in sizes for row in compare(name, ranks, Path(folder))]
    ranks.close()
    return rows


if __name__ == "__main__":
    command("deepspeed", __doc__, measure, {"sizes": {"nargs": "+", "choices": SIZES, "default": list(DEFAULT)}})
