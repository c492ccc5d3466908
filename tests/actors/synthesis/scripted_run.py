"""A synthesis whose teacher is scripted, as a process of its own: ``python -m tests.actors.synthesis.scripted_run FOLDER [URL]``."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.synthesis.main import STAGES, Synthesis
from actors.synthesis.records import Draft
from actors.synthesis.teacher import shared
from actors.synthesis.teacher.teacher import Generation, Request, Teacher
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher

COUNT, BLOCK = 90, 8
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]


def config(directory: Path, /, **sections: object) -> SynthesisConfig:
    """Small, with something of everything: rejected, twice there, held out."""
    settings = {
        "name": "scripted",
        "directory": str(directory),
        "block_groups": BLOCK,
        "teacher": {"model": "scripted"},
        "instructions": {"count": COUNT, "source": "seeded_chat", "max_tokens": 9},
        "responses": {"max_tokens": 9},
        "filter": {"min_words": 2},
        "splits": {"validation_per_topic": 3, "test_per_topic": 3},
        "speech": {"backend": "espeak", "voices_per_group": 2},
    }
    return SynthesisConfig.model_validate({**settings, **sections})


class Silent:
    """Nobody is told."""

    def begins(self, stage: str, blocks: int, total: int) -> None: ...

    def block(self, stage: str, drafts: Sequence[Draft]) -> None: ...

    def ends(self, stage: str) -> None: ...


def answered(request: Request) -> Generation:
    """Tags by the length of what is to be tagged, words otherwise."""
    if request.schema is not None:
        said = len(str(request.messages))
        values = {
            key: form["enum"][said % len(form["enum"])] if "enum" in form else "so" for key, form in request.schema["properties"].items()
        }
        return Generation(json.dumps(values), 5, "stop")
    drawn = random.Random(repr((request.messages, request.seed)))
    words = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 2))) for _ in range(drawn.randint(1, 10))]
    return Generation(" ".join(words), len(words), "stop" if len(words) <= request.max_tokens else "length")


def scripted(section: LanguageModelSection, where: str) -> Teacher:
    return ScriptedTeacher(answered)


def main(directory: Path, url: str | None = None) -> None:
    shared.open_teacher = scripted
    far = {"directory": url, "work_directory": str(directory)} if url is not None else {}
    Synthesis(config(directory, **far)).run(STAGES, Silent())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
