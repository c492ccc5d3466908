"""The stage `tags`: a language model sorts instructions by topic and rates how hard they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import ClassVar, Self

from msgspec.structs import replace

from actors.synthesis import tagging
from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.draws import seed
from actors.synthesis.teacher.teacher import Request, Teacher
from configs.synthesis import SynthesisConfig


class Tags(Stage):
    """One greedy answer an instruction; one that cannot be read is asked for once more, with a seed of its own.

    Consumes blocks of drafts with an instruction; produces them with `topic`, `difficulty` and, in `tags`, the tagger's reasons. Waits for
    the tagger, which is unblocked by its own engine or server.
    """

    name: ClassVar[str] = "tags"
    reasons: ClassVar[tuple[str, ...]] = ("topic", "unreadable")

    def __init__(self, config: SynthesisConfig, tagger: Teacher) -> None:
        """`tagger`: what `config.tags.model` names, or the teacher."""
        self._config, self._section, self._tagger = config, config.tags, tagger
        self._entered = ExitStack()
        self.ahead = 2  # while one block's last answers come, the next one's keep the engine busy

    def __enter__(self) -> Self:
        if self._section.enabled:
            self._entered.enter_context(self._tagger)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered.__exit__(kind, error, trace)

    def run(self, number: int, drafts: Sequence[Draft]) -> list[Draft]:  # noqa: ARG002 -- nothing here depends on the block
        """Ask, ask again where it has to be, and write down what was said."""
        if not self._section.enabled:
            return list(drafts)
        first = self._ask(drafts, again=False)
        missed = [draft for draft, tags in zip(drafts, first, strict=True) if tags is None]
        second = dict(zip((draft.id for draft in missed), self._ask(missed, again=True), strict=True)) if missed else {}
        return [self._tagged(draft, tags or second.get(draft.id), again=tags is None) for draft, tags in zip(drafts, first, strict=True)]

    def _ask(self, drafts: Sequence[Draft], *, again: bool) -> list[tagging.Tags | None]:
        section = self._section
        form = tagging.schema(section)
        requests = [
            Request(
                messages=[{"role": "user", "content": tagging.prompt(draft.instruction, section)}],
                max_tokens=section.max_tokens,
                temperature=section.retry_temperature if again else 0.0,
                seed=seed(self._config.seed, draft.id, self.name) if again else None,
                schema=form,
            )
            for draft in drafts
        ]
        return [tagging.read(generation.text, section) for generation in self._tagger.sample(requests)] if requests else []

    def _tagged(self, draft: Draft, tags: tagging.Tags | None, *, again: bool) -> Draft:
        """`tags` of the draft also names the tagger and the prompt's version, and says ``read: 2`` or 0 where the first was unreadable."""
        section = self._section
        how = {"tagger": (section.model or self._config.teacher).model, "prompt": "own" if section.prompt else tagging.VERSION}
        if tags is None:
            draft = replace(draft, topic=section.topics[-1], difficulty="", tags={**draft.tags, **how, "read": 0})
            if section.unreadable == "reject":
                return replace(draft, topic="", rejected=f"{self.name}: unreadable")
            return draft
        noted = {**draft.tags, **how, **tags.thoughts, **({"read": 2} if again else {})}
        draft = replace(draft, topic=tags.topic, difficulty=tags.difficulty, tags=noted)
        if tags.topic in section.drop_topics:
            return replace(draft, rejected=f"{self.name}: topic", detail=tags.topic)
        return draft
