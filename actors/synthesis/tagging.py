"""What a tagger is asked, and how its answers are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from configs.selection import DIFFICULTIES, TagsSection

VERSION = "1"
"""Of the built-in prompts."""
MEANINGS = {
    "Information Seeking": "wants facts, definitions, explanations or a summary of what is known",
    "Advice Seeking": "wants guidance for a situation, a decision or a problem of one's own",
    "Creative Writing": "wants a story, a poem, a script, a speech or another invented text",
    "Planning": "wants a schedule, an itinerary, a strategy or steps towards a goal",
    "Reasoning": "wants a conclusion drawn, a puzzle solved or an argument weighed",
    "Brainstorming": "wants many ideas, names or possibilities",
    "Role Playing": "wants the assistant to speak as a character or a person",
    "Others": "fits nothing else",
    "Mathematics": "needs calculation, algebra, geometry or a proof",
    "Coding": "is about writing, running or mending computer programs",
    "Editing": "wants a given text corrected, reworded, shortened or translated",
    "Data Analysis": "wants numbers, tables or charts worked on",
}
"""What the usual topics mean, as the tagger is told; topics that are not in here go by their name."""

_EXPLAINED = """Below is something that a user says to a voice assistant. Sort it; do not answer it.

<instruction>
{instruction}
</instruction>

Think about what the user wants to get, then choose the one topic that fits best:
{topics}
{rating}
Reply with one JSON object and nothing else. Its keys, in this order: {keys}."""
_RATING = """
Then think about what somebody has to know and to be able to do for a good answer, and rate how hard that is: {difficulties}.
"""
_KEYS = {
    "intent": '"intent" (one sentence: what the user wants)',
    "topic": '"topic" (one of the names above)',
    "knowledge": '"knowledge" (one or two sentences: what a good answer takes)',
    "difficulty": '"difficulty" (one of the five ratings)',
}
_SHORT = "{instruction}\n\n{topics}"
_PLACES = re.compile(r"\{(instruction|topics|difficulties|rating|keys)\}")


@dataclass(frozen=True)
class Tags:
    """What a tagger said of one instruction."""

    topic: str
    difficulty: str
    thoughts: dict[str, str]


def topics(section: TagsSection) -> tuple[str, ...]:
    """All that are offered: those that stay, then those that are dropped."""
    return (*section.topics, *(topic for topic in section.drop_topics if topic not in section.topics))


def keys(section: TagsSection) -> list[str]:
    """Of the answer, in order: each thought before what is decided by it."""
    asked = {
        "intent": section.explain,
        "topic": True,
        "knowledge": section.explain and section.difficulty,
        "difficulty": section.difficulty,
    }
    return [key for key, wanted in asked.items() if wanted]


def prompt(instruction: str, section: TagsSection) -> str:
    """The user's turn. Without explanations the built-in one is the instruction and the topics' bare names, for small taggers."""
    names = topics(section)
    listed = "\n".join(f"- {name}: {MEANINGS[name]}" if name in MEANINGS else f"- {name}" for name in names)
    said = {
        "instruction": instruction,
        "topics": listed if section.explain else " | ".join(names),
        "difficulties": ", ".join(DIFFICULTIES),
        "keys": ", ".join(_KEYS[key] for key in keys(section)),
    }
    said["rating"] = _RATING.replace("{difficulties}", said["difficulties"]) if section.difficulty else ""
    template = section.prompt or (_EXPLAINED if section.explain else _SHORT)
    return _PLACES.sub(lambda place: said[place[1]], template)  # in one pass: an instruction may speak of {topics}


def schema(section: TagsSection) -> dict[str, Any]:
    """JSON schema of an answer."""
    kinds: dict[str, Any] = {
        "intent": {"type": "string"},
        "topic": {"type": "string", "enum": list(topics(section))},
        "knowledge": {"type": "string"},
        "difficulty": {"type": "string", "enum": list(DIFFICULTIES)},
    }
    wanted = keys(section)
    return {
        "type": "object",
        "properties": {key: kinds[key] for key in wanted},
        "required": wanted,
        "additionalProperties": False,
    }


def read(text: str, section: TagsSection) -> Tags | None:
    """The tags in an answer, or None where it has none. Text around the object, and the case of names, do not matter."""
    start, end = text.find("{"), text.rfind("}")
    try:
        answer = msgspec.json.decode(text[start : end + 1]) if 0 <= start < end else None
    except (msgspec.DecodeError, RecursionError):  # a model that loops may open brackets without end
        return None
    if not isinstance(answer, dict):
        return None
    topic = _one_of(topics(section), answer, "topic")
    difficulty = _one_of(DIFFICULTIES, answer, "difficulty") if section.difficulty else ""
    if topic is None or difficulty is None:
        return None
    thoughts = {key: answer[key] for key in keys(section) if key in ("intent", "knowledge") and isinstance(answer.get(key), str)}
    return Tags(topic, difficulty, thoughts)


def _one_of(names: Sequence[str], answer: Mapping[str, Any], key: str) -> str | None:
    said = answer.get(key)
    if not isinstance(said, str):
        return None
    return next((name for name in names if name.casefold() == said.strip().casefold()), None)
