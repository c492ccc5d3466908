"""Stage `instructions`: the teacher writes what users might say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.asking import question
from actors.synthesis.teacher.draws import between, seed
from actors.synthesis.teacher.prequery import ChatTokenizer, PreQuery, pre_query
from actors.synthesis.teacher.teacher import Generation, Message, Request, Teacher
from actors.synthesis.teacher.tidying import is_repeating, tidied
from actors.synthesis.teacher.tokenizer import open_tokenizer
from configs.synthesis import SynthesisConfig

AHEAD = 8
"""Blocks that the teacher works on at once. A block takes as long as its longest text, so the engine is only kept busy by as many of them
as the longest text is longer than the mean."""


class Instructions(Stage):
    """Each block has its own temperature and top_p within the configured ranges, each sample its own seed."""

    name: ClassVar[str] = "instructions"
    reasons: ClassVar[tuple[str, ...]] = ("refused", "truncated", "empty", "repeating")

    def __init__(self, config: SynthesisConfig, teacher: Teacher, tokenizer: ChatTokenizer | None = None) -> None:
        """`config.instructions.source` is `pre_query` or `seeded_chat`; `tokenizer`: by default the one that `config.teacher` names."""
        self._config, self._section = config, config.instructions
        self._teacher, self._tokenizer = teacher, tokenizer
        self._pre_query: PreQuery | None = None
        self._entered = ExitStack()
        self.ahead = AHEAD

    def __enter__(self) -> Self:
        if self._section.source == "pre_query":
            tokenizer = self._tokenizer or open_tokenizer(self._config.teacher, "teacher")
            self._pre_query = pre_query(tokenizer, system=self._section.system, text=self._section.pre_query)
        self._entered.enter_context(self._teacher)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered.__exit__(kind, error, trace)

    def run(self, number: int, drafts: Sequence[Draft]) -> list[Draft]:
        """One sample a draft."""
        section, chosen = self._section, (self._config.seed, number)
        sampling = {
            "temperature": between(*section.temperature, *chosen, "temperature"),
            "top_p": between(*section.top_p, *chosen, "top_p"),
        }
        requests = [self._request(draft, sampling) for draft in drafts]
        generations = self._teacher.sample(requests)
        return [self._written(*each) for each in zip(drafts, requests, generations, strict=True)]

    def _request(self, draft: Draft, sampling: dict[str, float]) -> Request:
        own_seed = seed(self._config.seed, draft.id, self.name)
        stop = ("\n",) if self._section.first_line else ()
        rest: dict[str, Any] = {**sampling, "max_tokens": self._section.max_tokens, "seed": own_seed}
        if (start := self._pre_query) is not None:
            return Request(prompt_ids=start.token_ids, stop_token_ids=start.stop_token_ids, stop=(*start.stop, *stop), **rest)
        messages: list[Message] = [{"role": "user", "content": question(self._config.seed, draft.id)}]
        if self._section.system is not None:
            messages.insert(0, {"role": "system", "content": self._section.system})
        return Request(messages=messages, stop=stop, **rest)

    def _written(self, draft: Draft, request: Request, generation: Generation) -> Draft:
        text = tidied(generation.text)
        reason = rejection(generation, text)
        return replace(
            draft,
            instruction=text,
            origin={
                **draft.origin,
                "source": self._section.source,
                "model": self._config.teacher.model,
                "seed": request.seed,
                "temperature": request.temperature,
                "top_p": request.top_p,
            },
            rejected=f"{self.name}: {reason}" if reason else "",
            detail=generation.detail,
        )


def rejection(generation: Generation, text: str) -> str:
    """Why a text, cleaned of what does not belong to it, is of no use; "" for a good one."""
    if generation.finish_reason == "refused":
        return "refused"
    if generation.finish_reason == "length":
        return "truncated"
    if not text:
        return "empty"
    return "repeating" if is_repeating(text) else ""
