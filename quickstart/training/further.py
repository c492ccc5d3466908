"""The same speech with a further task's prompt beside it. Edge: torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec.structs import replace as changed

from policies.adapter import Processing
from quickstart.grammar import understand
from quickstart.language import CODE
from quickstart.tasks import PROMPTS, Task, wanted
from quickstart.training.speechlm import Heard


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
