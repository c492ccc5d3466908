"""A teacher of the tests, which answers by a function and remembers what it was asked."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Sequence

from actors.synthesis.teacher.teacher import Generation, Request, Teacher, TeacherFailedError

WORDS = ["what", "is", "the", "colour", "of", "a", "cat", "and", "why", "does", "it", "rain", "on", "monday", "in", "red", "green", "blue"]
LONGEST = 200


def babble(request: Request) -> Generation:
    """Words by the seed, as many as it takes until a draw ends them."""
    prompt = (
        list(request.prompt_ids)
        if request.prompt_ids is not None
        else [word for each in request.messages for word in each["content"].split()]
    )
    if len(prompt) > LONGEST:
        return Generation("", 0, "refused", f"{len(prompt)} tokens are more than {LONGEST}")
    if request.schema is not None:
        return Generation(json.dumps({key: form["enum"][0] for key, form in request.schema["properties"].items()}), 5, "stop")
    drawn = random.Random(repr((prompt, request.seed if request.temperature else None)))
    words = [drawn.choice(WORDS) for _ in range(drawn.randint(1, 12))]
    if len(words) >= request.max_tokens:
        return Generation(" ".join(words[: request.max_tokens]), request.max_tokens, "length")
    return Generation(" ".join(words), len(words) + 1, "stop")


class ScriptedTeacher(Teacher):
    """Counts its lives; `answer` makes each generation."""

    def __init__(self, answer: Callable[[Request], Generation] = babble) -> None:
        super().__init__()
        self._answer, self._lock = answer, threading.Lock()
        self.requests: list[Request] = []
        self.starts = self.stops = 0

    @property
    def description(self) -> str:
        return "scripted"

    def _start(self) -> None:
        self.starts += 1

    def _stop(self) -> None:
        self.stops += 1

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        if self.starts == self.stops:
            raise TeacherFailedError("the teacher is closed")
        with self._lock:
            self.requests += requests
        return [self._answer(request) for request in requests]
