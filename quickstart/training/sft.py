"""Supervised training of the tiny SpeechLM, from nothing to half-way. Edge: torch.

It stops where about half of the unseen instructions are answered right: alignment is to start from a model that has
learned to hear, and still has much to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from policies.adapter import Processing, adapter
from policies.qwen2_audio import save_model
from quickstart.speech import provide_split
from quickstart.training.hearing import Listener, Tick, learn_runs, learn_words, spoken_words
from quickstart.training.speechlm import Heard, accuracy, answers, answers_loss, hear, heard_embeddings, new_model, valid, write_processor
from quickstart.training.steps import Schedule, batches, optimise
from quickstart.world import Difficulty

SCHEDULE = Schedule(steps=1200, peak=1.5e-3, warmup=30)
SPOKEN_ROWS, WRITTEN_ROWS = 32, 16
"""Rows of a batch. The written ones teach the decoder the world at a tenth of the price of spoken ones."""
BY_EAR = Difficulty(learned_groups=100_000, voices_per_group=5)
"""Every instruction that is not kept for alignment or held out, in more voices than the quickstart's groups have."""
HALF_WAY = 0.57
"""Validation accuracy at which training stops."""
FIRST_CHECK, CHECK_EVERY = 200, 25


def train_speechlm(folder: Path, seed: int, tick: Tick) -> dict[str, Any]:
    """Train until half-way and write the checkpoint to `folder`. Returns its figures, on the unseen test instructions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_processor(folder)
    model, listener = new_model(folder, seed), Listener()
    save_model(model, folder)  # the processing below is that of a whole checkpoint
    processing = adapter("qwen2_audio").open(folder)
    rows = hear(provide_split("learned", BY_EAR), processing, written=True)
    written = batches([row for row in rows if row.features is None], WRITTEN_ROWS, seed)

    def written_loss(_step: int) -> torch.Tensor:
        return answers_loss(model, next(written), processing)

    voices = spoken_words(listener, processing, BY_EAR)
    steps = {
        "words": learn_words(model, listener, voices, written_loss, seed, tick),
        "runs": learn_runs(model, listener, voices, written_loss, seed, tick),
        "instructions": _learn_instructions(model, listener, rows, processing, written_loss, seed, tick),
    }
    save_model(model, folder)
    return {"seed": seed, "steps": steps, "parameters": sum(each.numel() for each in model.parameters())} | measured(model, processing)


def _learn_instructions(
    model: nn.Module,
    listener: Listener,
    rows: list[Heard],
    processing: Processing,
    written_loss: Callable[[int], torch.Tensor],
    seed: int,
    tick: Tick,
) -> int:
    spoken = batches([row for row in rows if row.features is not None], SPOKEN_ROWS, seed)
    validation = hear(provide_split("validation"), processing)[:256]

    def loss(step: int) -> torch.Tensor:
        asked = next(spoken)
        encoded, lengths = heard_embeddings(model, asked)
        said = listener.ctc(encoded, lengths, [row.group.instruction for row in asked])
        return answers_loss(model, asked, processing, valid(encoded, lengths)) + said + 0.5 * written_loss(step)

    def after(step: int, value: float) -> bool:
        tick(step, value)
        return step >= FIRST_CHECK and step % CHECK_EVERY == 0 and accuracy(model, validation, processing)[0] >= HALF_WAY

    return optimise(nn.ModuleList([model, listener]), SCHEDULE, loss, after)


def measured(model: nn.Module, processing: Processing) -> dict[str, Any]:
    """Greedy accuracy on the test set: over all utterances, by speaker and by topic."""
    test = hear(provide_split("test"), processing)
    overall, by_speaker = accuracy(model, test, processing)
    return {
        "test_accuracy": round(overall, 4),
        "test_accuracy_by_speaker": by_speaker,
        "test_accuracy_by_topic": _by_topic(test, answers(model, test, processing)),
    }


def _by_topic(rows: list[Heard], texts: list[str]) -> dict[str, float]:
    right: dict[str, list[bool]] = {}
    for row, text in zip(rows, texts, strict=True):
        right.setdefault(row.group.topic, []).append(text in (row.group.answers or [row.group.reference]))
    return {topic: round(sum(each) / len(each), 3) for topic, each in sorted(right.items())}


def sampled_answers(folder: Path, seed: int) -> dict[str, list[str]]:
    """Answers that the checkpoint in `folder` samples to the train and test utterances, by instruction: the reward model's material."""
    family = adapter("qwen2_audio")
    model, processing = family.load_model(folder, "float32"), family.open(folder)
    torch.manual_seed(seed)
    found: dict[str, list[str]] = {}
    for split in ("train", "test"):
        rows = hear(provide_split(split), processing)[::2]
        for row, text in zip(rows, answers(model, rows, processing, temperature=1.0), strict=True):
            found.setdefault(row.group.instruction, []).append(text)
    return found
