"""Supervised training of the tiny SpeechLM, from nothing to half-way. Edge: torch.

The decoder reads first, as the language model under a SpeechLM does; then the audio tower learns to hear words, and the whole model
to answer what it hears. It stops, at full learning rate, where about half of the unseen instructions are answered right: alignment is
to start from a model that can hear, and still has much to learn. Some accents it has never heard.
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
from quickstart.world import SPLITS, Difficulty

READING = Schedule(steps=1200, peak=2e-3, warmup=40)
READING_ROWS = 96
ANSWERING = Schedule(steps=1200, peak=1.2e-3, warmup=30, floor=1.0)
SPOKEN_ROWS, WRITTEN_ROWS = 32, 16
WRITTEN_WEIGHT = 0.5
BY_EAR = Difficulty(learned_groups=100_000, training_voices=7)
"""Every instruction that is not kept for alignment or held out, in the first voices: three accents are left to alignment."""
HALF_WAY = 0.55
"""Validation accuracy at which training stops."""
FIRST_CHECK, CHECK_EVERY = 200, 25


def train_speechlm(folder: Path, seed: int, tick: Tick) -> dict[str, Any]:
    """Train until half-way and write the checkpoint to `folder`. Returns its figures, on the unseen test instructions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_processor(folder)
    model, listener = new_model(folder, seed), Listener()
    save_model(model, folder)  # the processing below is that of a whole checkpoint
    processing = adapter("qwen2_audio").open(folder)
    heard = hear(provide_split("learned", BY_EAR), processing, written=True)
    read = [row for row in (*heard, *hear(provide_split("train"), processing, written=True)) if row.features is None]
    spoken = [row for row in heard if row.features is not None]
    voices = spoken_words(listener, processing, BY_EAR)
    steps = {
        "reading": _learn_reading(model, read, processing, seed, tick),
        "words": learn_words(model, listener, voices, seed, tick),
        "runs": learn_runs(model, listener, voices, seed, tick),
        "answering": _learn_answering(model, listener, spoken, read, processing, seed, tick),
    }
    save_model(model, folder)
    return {"seed": seed, "steps": steps, "parameters": sum(each.numel() for each in model.parameters())} | measured(model, processing)


def _learn_reading(model: nn.Module, read: list[Heard], processing: Processing, seed: int, tick: Tick) -> int:
    drawn = batches(read, READING_ROWS, seed)
    return optimise(model, READING, lambda _step: answers_loss(model, next(drawn), processing), _never(tick))


def _never(tick: Tick) -> Callable[[int, float], bool]:
    def after(step: int, loss: float) -> bool:
        tick(step, loss)
        return False

    return after


def _learn_answering(
    model: nn.Module, listener: Listener, spoken: list[Heard], read: list[Heard], processing: Processing, seed: int, tick: Tick
) -> int:
    asked, asked_in_writing = batches(spoken, SPOKEN_ROWS, seed), batches(read, WRITTEN_ROWS, seed + 1)
    validation = hear(provide_split("validation"), processing)

    def loss(_step: int) -> torch.Tensor:
        rows = next(asked)
        encoded, lengths = heard_embeddings(model, rows)
        said = listener.ctc(encoded, lengths, [row.group.instruction for row in rows])
        written = answers_loss(model, next(asked_in_writing), processing)
        return answers_loss(model, rows, processing, valid(encoded, lengths)) + said + WRITTEN_WEIGHT * written

    def after(step: int, value: float) -> bool:
        tick(step, value)
        done = step + 1
        return done >= FIRST_CHECK and done % CHECK_EVERY == 0 and accuracy(model, validation, processing)[0] >= HALF_WAY

    return optimise(nn.ModuleList([model, listener]), ANSWERING, loss, after)


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
    """Answers that the checkpoint in `folder` samples to every split's utterances, by instruction: the reward model's material."""
    family = adapter("qwen2_audio")
    model, processing = family.load_model(folder, "float32"), family.open(folder)
    torch.manual_seed(seed)
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        rows = hear(provide_split(split), processing)[::2]
        for row, text in zip(rows, answers(model, rows, processing, temperature=1.0), strict=True):
            found.setdefault(row.group.instruction, []).append(text)
    return found
