"""The two sides of a measurement of the learner's step: its own engine, and the loop that a user would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from benchmarks.speechlm import VOICES
from configs.training import LearnerSection, LossSection
from learner.collate import TrainingGroup
from learner.engine import Engine
from policies.adapter import Processing, Samples
from protocol.messages import GroupResult

LOSS = LossSection(beta=0.1, lambda_ce=0.2)
RATE = 1e-5
Pick = Callable[[GroupResult], list[int]]
Speech = Callable[[str], Samples]


class PlainLoop:
    """What a user would write: one forward pass for the chosen answers, one for the rejected ones, one for the references."""

    def __init__(
        self, model: nn.Module, processing: Processing, items: Sequence[TrainingGroup], spoken: Speech, *, autocast: bool = False
    ) -> None:
        """`autocast`: products in bfloat16 on float32 weights, and the optimiser's fused kernel."""
        self._model: Any = model.train()
        self._spoken, self._autocast = spoken, autocast
        self._device = next(model.parameters()).device
        fused = True if autocast else None
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
        self._chosen = self._rows(items, processing, lambda result: [result.pairs[0].chosen])
        self._rejected = self._rows(items, processing, lambda result: [result.pairs[0].rejected])
        self._references = self._rows(items, processing, None)

    def _rows(self, items: Sequence[TrainingGroup], processing: Processing, pick: Pick | None) -> dict[str, Tensor]:
        rows, clips = [], []
        for item in items:
            answers = [(voice, processing.answer_ids(item.group.reference)) for voice in range(VOICES)]
            if pick is not None:
                completions = [item.result.completions[index] for index in pick(item.result)]
                answers = [(each.utterance, np.frombuffer(each.token_ids, "<i4").tolist()) for each in completions]
            for voice, ids in answers:
                clips.append(self._spoken(item.group.utterances[voice].audio or ""))
                rows.append((processing.prompt_ids("", samples=clips[-1]), ids))
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        token_ids = torch.full((len(rows), width), processing.pad_token_id)
        mask, labels = torch.zeros_like(token_ids), torch.full_like(token_ids, -100)
        for number, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            token_ids[number, :end] = torch.tensor(prompt + answer)
            mask[number, :end] = 1
            labels[number, len(prompt) : end] = torch.tensor(answer)
        features, frame_mask = processing.features(clips)
        inputs = {"input_ids": token_ids, "attention_mask": mask, "labels": labels}
        inputs |= {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}

    def _logprobs(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums over each answer's tokens, and their number."""
        inputs = {name: tensor for name, tensor in rows.items() if name != "labels"}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._model(**inputs).logits[:, :-1].log_softmax(-1, dtype=torch.float32)
        labels = rows["labels"][:, 1:]
        own = labels != -100
        tokens = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return (tokens * own).sum(-1), own.sum(-1)

    def step(self) -> float:
        """One optimiser step. Returns the loss."""
        chosen, rejected = self._logprobs(self._chosen)[0], self._logprobs(self._rejected)[0]
        references, counts = self._logprobs(self._references)
        loss = -logsigmoid(LOSS.beta * (chosen - rejected)).mean() - LOSS.lambda_ce * (references / counts).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())


class Ours:
    """The learner's step on one rank."""

    def __init__(self, engine: Engine, items: Sequence[TrainingGroup]) -> None:
        self._engine, self._items, self._number = engine, list(items), 0

    def step(self) -> float:
        """One optimiser step, collation included. Returns the loss."""
        self._number += 1
        figures = self._engine.step(self._items, self._number).figures
        return figures.loss / figures.groups


def section_for(groups: int, **options: Any) -> LearnerSection:
    """A learner that takes its `groups` in one forward pass."""
    values = {"batch_groups": groups, "micro_batch_groups": groups, "steps": 1000, "learning_rate": RATE, "cpu_threads": 0}
    return LearnerSection.model_validate({**values, **options})
