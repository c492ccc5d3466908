"""The stage `filter`: instructions that cannot be spoken, or were there before, go no further."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from msgspec.structs import replace

from actors.synthesis.filters.duplicates import Duplicates
from actors.synthesis.filters.kept_out import kept_out
from actors.synthesis.filters.normal import normal
from actors.synthesis.filters.rules import REASONS, judge, rules
from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from configs.synthesis import SynthesisConfig

if TYPE_CHECKING:
    from actors.synthesis.filters.embeddings import Meanings

KEPT_OUT, DUPLICATE, NEAR_DUPLICATE, SAME_MEANING = "kept out", "duplicate", "near duplicate", "same meaning"


class Filtering(Stage):
    """Asks the rules first, then for what is kept out, then for duplicates of what was let in before.

    A duplicate's detail is the earlier one's id.

    Consumes blocks of drafts with an instruction and a reference; produces the same, some rejected. Needs its blocks in order.
    """

    name: ClassVar[str] = "filter"
    reasons: ClassVar[tuple[str, ...]] = (*REASONS, KEPT_OUT, DUPLICATE, NEAR_DUPLICATE, SAME_MEANING)

    def __init__(self, config: SynthesisConfig) -> None:
        """Raises `UserError` where a pattern of the recipe is none, or a manifest of `kept_out` cannot be read."""
        self._section = section = config.filter
        self._rules = rules(section) if section.enabled else []
        self._kept_out = kept_out(section.kept_out) if section.enabled else frozenset()
        self._duplicates = Duplicates(section.near_duplicates) if section.enabled and section.duplicates else None
        self._meanings: Meanings | None = None

    def __enter__(self) -> Self:
        self._loaded()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._meanings = None

    def recall(self, drafts: Sequence[Draft]) -> None:
        """Let in again what was let in."""
        meant = f"{self.name}: {SAME_MEANING}"
        passed = [draft for draft in drafts if draft.rejected in ("", meant)]
        ids, texts = [draft.id for draft in passed], [draft.instruction for draft in passed]
        if self._duplicates is not None:
            self._duplicates.enter(ids, texts)
        if (meanings := self._loaded()) is not None:
            meanings.enter(ids, texts, [draft.kept for draft in passed])

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:  # noqa: ARG002 -- nothing is written beside the drafts
        """Reject what the recipe rejects."""
        judged = list(drafts)
        for place, draft in enumerate(judged):
            reason, detail = judge(draft, self._rules)
            if not reason and normal(draft.instruction) in self._kept_out:
                reason = KEPT_OUT
            if reason:
                judged[place] = self._rejected(draft, reason, detail)
        if self._duplicates is not None:
            places = [place for place, draft in enumerate(judged) if draft.kept]
            ids, texts = [judged[place].id for place in places], [judged[place].instruction for place in places]
            for place, earlier in zip(places, self._duplicates.find(ids, texts), strict=True):
                if earlier is not None:
                    reason = DUPLICATE if earlier.same else NEAR_DUPLICATE
                    judged[place] = self._rejected(judged[place], reason, earlier.id)
        if (meanings := self._loaded()) is not None:
            places = [place for place, draft in enumerate(judged) if draft.kept]
            ids, texts = [judged[place].id for place in places], [judged[place].instruction for place in places]
            for place, same in zip(places, meanings.find(ids, texts), strict=True):
                if same is not None:
                    judged[place] = self._rejected(judged[place], SAME_MEANING, same)
        return judged

    def _rejected(self, draft: Draft, reason: str, detail: str) -> Draft:
        return replace(draft, rejected=f"{self.name}: {reason}", detail=detail)

    def _loaded(self) -> Meanings | None:
        """The embedding model's index, if the recipe wants one; loaded when it is first needed."""
        if self._meanings is None and self._section.enabled and self._section.meaning is not None:
            from actors.synthesis.filters.embeddings import Meanings

            self._meanings = Meanings(self._section.meaning)
        return self._meanings
