"""Stage `responses`: the teacher's own answers, which are the references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from actors.synthesis.instructions import AHEAD, rejection
from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.draws import seed
from actors.synthesis.teacher.teacher import Generation, Message, Request, Teacher
from actors.synthesis.teacher.tidying import without_thoughts
from configs.synthesis import SynthesisConfig

_PLACES = re.compile(r"\{(instruction|prompt)\}")


class Responses(Stage):
    """One answer an instruction, greedy by default. Drafts whose corpus gives a reference keep it."""

    name: ClassVar[str] = "responses"
    reasons: ClassVar[tuple[str, ...]] = ("refused", "truncated", "empty", "repeating")

    def __init__(self, config: SynthesisConfig, teacher: Teacher) -> None:
        self._config, self._section, self._teacher = config, config.responses, teacher
        self._of_corpus = config.instructions.source == "corpus"  # which then says into what language
        self._entered = ExitStack()
        self.ahead = AHEAD

    def __enter__(self) -> Self:
        self._entered.enter_context(self._teacher)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered.__exit__(kind, error, trace)

    def run(self, number: int, drafts: Sequence[Draft]) -> list[Draft]:  # noqa: ARG002 -- nothing here depends on the block
        """One answer a draft."""
        drafts = [replace(draft, prompt=draft.prompt or self._section.task_prompt) for draft in drafts]
        asked = [draft for draft in drafts if not draft.reference]
        requests = [self._request(draft) for draft in asked]
        generations = self._teacher.sample(requests) if requests else []
        answered = {each[0].id: self._answered(*each) for each in zip(asked, requests, generations, strict=True)}
        return [answered.get(draft.id, draft) for draft in drafts]

    def _request(self, draft: Draft) -> Request:
        section = self._section
        said = {"instruction": draft.instruction, "prompt": draft.prompt}
        # in one pass: an instruction may speak of {prompt}
        messages: list[Message] = [{"role": "user", "content": _PLACES.sub(lambda place: said[place[1]], section.prompt)}]
        if section.system is not None:
            messages.insert(0, {"role": "system", "content": section.system})
        return Request(
            messages=messages,
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            seed=seed(self._config.seed, draft.id, self.name) if section.temperature else None,
        )

    def _answered(self, draft: Draft, request: Request, generation: Generation) -> Draft:
        text = without_thoughts(generation.text)
        reason = rejection(generation, text)
        how: dict[str, Any] = {"model": self._config.teacher.model, "temperature": request.temperature, "top_p": request.top_p}
        if request.seed is not None:
            how["seed"] = request.seed
        return replace(
            draft,
            reference=text,
            language=draft.language if self._config.instructions.source == "corpus" else self._section.language,
            origin={**draft.origin, "reference": how},
            rejected=f"{self.name}: {reason}" if reason else "",
            detail=generation.detail,
        )
