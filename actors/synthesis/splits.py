"""The stage `splits`: of every topic some instructions are held out, by a hash of their ids."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

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
    that it came with, and its text is elsewhere, it is rejected. What is committed stays: of instructions that are added later as many
    are held out as make the shares whole. Consumes blocks of drafts with a topic; produces them with a split. Waits for the stage before,
    all of it, and surveys it with about 0.4 kB a draft.
    """

    name: ClassVar[str] = "splits"
    reasons: ClassVar[tuple[str, ...]] = ("held out",)
    ahead = 4

    def __init__(self, config: SynthesisConfig) -> None:
        self._config, self._section = config, config.splits
        self._topics: dict[int, str] = {}
        self._order: dict[int, int] = {}
        self._given: dict[int, str] = {}
        self._split: dict[int, str] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        """Texts that the committed blocks hold out, by topic and split."""

    def survey(self, drafts: Iterable[Draft]) -> None:
        """Every text, its topic, its hash, and the split that it comes with."""
        for draft in drafts:
            if not draft.kept:
                continue
            text = _text(draft)
            if text not in self._topics:
                self._topics[text] = draft.topic
                self._order[text] = drawn(self._config.seed, self.name, draft.id)
            if self._section.keep and draft.split:
                self._given[text] = max(self._given.get(text, TRAIN), draft.split, key=SIDES.index)

    def recall(self, drafts: Sequence[Draft]) -> None:
        """Keep what was decided."""
        for draft in drafts:
            text = _text(draft)
            if draft.kept and text not in self._split:
                self._split[text] = draft.split
                if text not in self._given:
                    self._held[self._topics.get(text, draft.topic), draft.split] += 1

    def __enter__(self) -> Self:
        """Decide for every text that has no split yet."""
        sizes: Counter[str] = Counter()
        free: dict[str, list[int]] = defaultdict(list)
        for topic, split in self._held:
            sizes[topic] += self._held[topic, split]
        for text, topic in self._topics.items():
            if text not in self._split and text not in self._given:
                free[topic].append(text)
        self._split = self._given | self._split
        for topic, texts in free.items():
            texts.sort(key=lambda text: (self._order[text], text))
            tested, validated = shares(sizes[topic] + len(texts), self._section)
            tests, rest = _parted(texts, tested - self._held[topic, TEST])
            validation, _ = _parted(rest, validated - self._held[topic, VALIDATION])
            self._split |= dict.fromkeys(tests, TEST) | dict.fromkeys(validation, VALIDATION)
        return self

    def run(self, number: int, drafts: Sequence[Draft]) -> list[Draft]:  # noqa: ARG002 -- decided before
        """Write down what was decided."""
        return [self._placed(draft) for draft in drafts]

    def _placed(self, draft: Draft) -> Draft:
        split = self._split.get(_text(draft), TRAIN)
        if self._section.keep and draft.split and draft.split != split:
            return replace(draft, rejected=f"{self.name}: held out", detail=split)
        return replace(draft, split=split)


def shares(count: int, section: SplitsSection) -> tuple[int, int]:
    """How many of a topic's `count` instructions are for test and for validation."""
    most = int(count * section.most_of_topic)
    return min(section.test_per_topic, most), min(section.validation_per_topic, most)


def _parted(texts: list[int], count: int) -> tuple[list[int], list[int]]:
    """The first `count`, and the others."""
    return texts[: max(0, count)], texts[max(0, count) :]


def _text(draft: Draft) -> int:
    return int(xxhash.xxh64_intdigest(normal(draft.instruction).encode("utf-8", "surrogatepass")))
