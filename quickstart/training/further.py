"""The SpeechLM's last lesson: the same speech with a task's prompt beside it, to translate and to answer in short. Edge: torch.

It goes on from the checkpoint that answers, at full learning rate, with answering among it, and stops early: alignment is to start from
a model that knows what is asked, and has much to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from msgspec.structs import replace as changed
from sacrebleu.metrics import BLEU
from torch import nn

from policies.adapter import Processing, adapter
from policies.qwen2_audio import save_model
from quickstart.grammar import understand
from quickstart.language import CODE
from quickstart.speech import provide_split
from quickstart.tasks import PROMPTS, Task, wanted
from quickstart.training.hearing import Tick
from quickstart.training.speechlm import Heard, answers, answers_loss, hear, heard_embeddings, valid
from quickstart.training.steps import Schedule, batches, optimise
from quickstart.world import Difficulty

TELLING = Schedule(steps=300, peak=1.2e-3, warmup=30, floor=1.0)
SPOKEN_ROWS: dict[Task, int] = {"answer": 11, "s2tt": 18, "qa": 5}
WRITTEN_ROWS: dict[Task, int] = {"answer": 4, "s2tt": 10, "qa": 2}
WRITTEN_WEIGHT = 0.5


def with_prompt(rows: Sequence[Heard], task: Task, processing: Processing) -> list[Heard]:
    """The same recordings and texts, asked to do `task`."""
    told = []
    for row in rows:
        instruction = understand(row.group.instruction)
        if instruction is None:
            raise ValueError(f"{row.group.instruction!r} is no instruction of the world")
        right = wanted(task, instruction)
        group = changed(row.group, prompt=PROMPTS[task], reference=right, answers=[right], language=CODE if task == "s2tt" else "en")
        ids = _prompt_ids(row, group.prompt, processing)
        told.append(replace(row, group=group, prompt_ids=ids, answer_ids=processing.answer_ids(right)))
    return told


def _prompt_ids(row: Heard, prompt: str, processing: Processing) -> list[int]:
    if row.features is None:
        return processing.prompt_ids(prompt, instruction=row.group.instruction)
    ids, audio = processing.compact_ids(prompt), processing.audio_token_id
    place = ids.index(audio)
    return [*ids[:place], *[audio] * row.prompt_ids.count(audio), *ids[place + 1 :]]


def learn_tasks(folder: Path, by_ear: Difficulty, seed: int, tick: Tick) -> int:
    """Go on from the checkpoint in `folder`, and write the result in its place. Returns the steps taken."""
    torch.manual_seed(seed)
    family = adapter("qwen2_audio")
    model, processing = family.load_model(folder, "float32"), family.open(folder)
    heard = hear(provide_split("learned", by_ear), processing, written=True)
    spoken = {task: batches(with_prompt([row for row in heard if row.features is not None], task, processing), count, seed + place)
              for place, (task, count) in enumerate(SPOKEN_ROWS.items())}  # fmt: skip
    written = {task: batches(with_prompt([row for row in heard if row.features is None], task, processing), count, seed + 10 + place)
               for place, (task, count) in enumerate(WRITTEN_ROWS.items())}  # fmt: skip

    def loss(_step: int) -> torch.Tensor:
        rows = [row for each in spoken.values() for row in next(each)]
        read = [row for each in written.values() for row in next(each)]
        said = answers_loss(model, rows, processing, valid(*heard_embeddings(model, rows)))
        return said + WRITTEN_WEIGHT * answers_loss(model, read, processing)

    def after(step: int, value: float) -> bool:
        tick(step, value)
        return False

    steps = optimise(model, TELLING, loss, after)
    save_model(model, folder)
    return steps


def measured_task(model: nn.Module, rows: Sequence[Heard], task: Task, processing: Processing) -> dict[str, float]:
    """Accuracy and corpus BLEU of greedy answers to the same recordings, asked to do `task`."""
    asked = with_prompt(rows, task, processing)
    texts, right = answers(model, asked, processing), [row.group.reference for row in asked]
    accuracy = sum(text == wanted for text, wanted in zip(texts, right, strict=True)) / len(right)
    return {"accuracy": round(accuracy, 4), "bleu": round(BLEU().corpus_score(texts, [right]).score, 1)}
