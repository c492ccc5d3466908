"""What the tiny teacher can be asked to do with an instruction, and what it has to say.

The task's prompt follows the instruction on a line of its own, as it follows the audio for a SpeechLM.
"""

from __future__ import annotations

import json
from typing import Literal, assert_never

from configs.selection import DIFFICULTIES
from quickstart.language import translate
from quickstart.world import Instruction

Task = Literal["answer", "s2tt", "qa", "tags"]
TASKS: tuple[Task, ...] = ("answer", "s2tt", "qa", "tags")
PROMPTS: dict[Task, str] = {"answer": "", "s2tt": "translate", "qa": "in short", "tags": "tag"}


def asked(task: Task, instruction: str) -> str:
    """The user's turn to the teacher."""
    return f"{instruction}\n{PROMPTS[task]}" if PROMPTS[task] else instruction


def wanted(task: Task, instruction: Instruction) -> str:
    """The right answer to `asked(task, instruction.text)`."""
    match task:
        case "answer":
            return instruction.answer
        case "s2tt":
            return translate(instruction.text)
        case "qa":
            return short(instruction)
        case "tags":
            tags = {"topic": instruction.topic, "difficulty": difficulty(instruction)}
            return json.dumps(tags, separators=(",", ":"))  # as vLLM writes JSON by a schema
    assert_never(task)


def short(instruction: Instruction) -> str:
    """The answer without the words that only repeat what was asked: one to five of them."""
    said = instruction.answer.split()
    match instruction.topic:
        case "counting":
            return f"{said[0]} to {said[-1]}"
        case "choose" | "compare" | "order":
            return said[0]
        case "capitals" if instruction.text.startswith("which country"):
            return said[-3]
        case "sounds" if instruction.text.startswith("which animal"):
            return said[1]
        case "arithmetic" | "opposites" | "capitals" | "sounds" | "colours" if {"is", "says"} & set(said):
            return said[-1]
        case _:
            return instruction.answer


def difficulty(instruction: Instruction) -> str:
    """As many words as the short answer has: one is very easy, five are very hard."""
    return DIFFICULTIES[len(short(instruction).split()) - 1]
