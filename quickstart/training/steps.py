"""What the three training loops share: batches, padding, the optimiser and its schedule. Edge: torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NO_LABEL = -100
Row = TypeVar("Row")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained."""

    steps: int
    """Length of the cosine; a loop may stop before it."""
    peak: float
    warmup: int = 100
    floor: float = 0.1
    """Where the cosine ends, as a share of the peak; 1 keeps the rate constant."""

    def at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.peak * (self.floor + (1 - self.floor) * (0.5 + 0.5 * math.cos(math.pi * progress)))


def initialise(model: nn.Module) -> None:
    """Draw every matrix with the standard deviation that keeps the size of what passes through it.

    transformers takes 0.02 for all, which suits wide models; a narrow one then spends hundreds of steps growing its weights.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Batches without end, every row at most once an epoch."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(rows) - size + 1, size):
            yield [rows[place] for place in order[start : start + size]]


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Right-padded rows ``[row, position]``."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def answer_loss(logits: Tensor, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Tensor:
    """Cross-entropy per answer token of logits ``[row, position, vocabulary]`` over prompt and answer."""
    labels = pad([[NO_LABEL] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)], NO_LABEL)
    return cross_entropy(logits[:, : labels.shape[1] - 1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NO_LABEL)


def optimise(
    model: nn.Module, schedule: Schedule, loss_of: Callable[[int], Tensor], after: Callable[[int, float], bool] = lambda _step, _loss: False
) -> int:
    """AdamW on `loss_of(step)` until the schedule ends or `after(step, loss)` says stop. Returns the steps taken."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.peak, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(schedule.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if after(step, loss.item()):
            return step + 1
    return schedule.steps
