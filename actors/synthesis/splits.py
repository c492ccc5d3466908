"""The stage `splits`: of every topic some instructions are held out, by a hash of their ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import ClassVar

import xxhash
from msgspec.structs import replace

from actors.synthesis.filters.normal import normal
from actors.synthesis.records import Draft
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.draws import number as drawn
from configs.selection import SplitsSection
from configs.synthesis import SynthesisConfig

TRAIN, VALIDATION, TEST = SIDES = ("train", "validation", "test")


class Splits(Stage):
    """Holds out for test and validation those with the smallest hashes, per topic; the rest is for training.

    Instructions that are the same to a listener go together, with the first of them, whatever their topics. Where a draft keeps the split
    that it came with, and its text is held out elsewhere, it is rejected. Consumes blocks of drafts with a topic; produces them with a
    split. Waits for the stage before, all of it, and surveys it with about 0.4 kB a draft.
    """

    name: ClassVar[str] = "splits"
    reasons: ClassVar[tuple[str, ...]] = ("held out",)
    ahead = 4

    def __init__(self, config: SynthesisConfig) -> None:
        self._config, self._section = config, config.splits
        self._held_out: dict[int, str] = {}

    def survey(self, drafts: Iterable[Draft]) -> None:
        """Decide for every text."""
        topics: dict[int, str] = {}
        order: dict[int, int] = {}
        given: dict[int, str] = {}
        for draft in drafts:
            if not draft.kept:
                continue
            text = _text(draft)
            if text not in topics:
                topics[text] = draft.topic
                order[text] = drawn(self._config.seed, self.name, draft.id)
            if self._section.keep and draft.split:
                given[text] = max(given.get(text, TRAIN), draft.split, key=SIDES.index)
        by_topic: dict[str, list[int]] = defaultdict(list)
        for text, topic in topics.items():
            if text not in given:
                by_topic[topic].append(text)
        self._held_out = {text: split for text, split in given.items() if split != TRAIN}
        for texts in by_topic.values():
            texts.sort(key=lambda text: (order[text], text))
            tested, validated = shares(len(texts), self._section)
            self._held_out.update(dict.fromkeys(texts[:tested], TEST))
            self._held_out.update(dict.fromkeys(texts[tested : tested + validated], VALIDATION))

    def run(self, number: int, drafts: Sequence[Draft]) -> list[Draft]:  # noqa: ARG002 -- decided by the survey
        """Write down what was decided."""
        return [self._placed(draft) for draft in drafts]

    def _placed(self, draft: Draft) -> Draft:
        split = self._held_out.get(_text(draft), TRAIN)
        if self._section.keep and draft.split and draft.split != split:
            return replace(draft, rejected=f"{self.name}: held out", detail=split)
        return replace(draft, split=split)


def shares(count: int, section: SplitsSection) -> tuple[int, int]:
    """How many of a topic's `count` instructions are for test and for validation."""
    most = int(count * section.most_of_topic)
    return min(section.test_per_topic, most), min(section.validation_per_topic, most)


def _text(draft: Draft) -> int:
    return int(xxhash.xxh64_intdigest(normal(draft.instruction).encode("utf-8", "surrogatepass")))
