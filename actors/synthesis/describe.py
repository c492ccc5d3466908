"""What is in a data set, as in the paper's Table 1: topics, difficulties, splits, and what went on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Group
from rich.table import Table

from actors.synthesis.filters.length import words
from actors.synthesis.records import Draft
from configs.selection import DIFFICULTIES, TOPICS

STAGES = ("instructions", "responses", "filter", "tags", "splits", "speech", "dataset")
PAPER_TOPICS = dict(zip(TOPICS, (60.3, 18.5, 12.7, 4.2, 2.8, 0.2, 0.1, 1.2), strict=True))
"""Table 1, in percent."""
PAPER_DIFFICULTIES = dict(zip(DIFFICULTIES, (26.1, 39.2, 28.7, 5.2, 0.8), strict=True))
"""Section 3.1, in percent. It prints 52 for what the other four leave 5.2 of."""
SPLITS = ("train", "validation", "test")
UNNAMED = "(none)"


class StageCount(msgspec.Struct, frozen=True):
    """What one stage let through."""

    stage: str
    reached: int
    """Drafts that no earlier stage had rejected."""
    rejected: dict[str, int]
    """By reason, the commonest first."""

    @property
    def kept(self) -> int:
        """Drafts that went on."""
        return self.reached - sum(self.rejected.values())


class Description(msgspec.Struct, frozen=True):
    """Counts of kept drafts, unless said otherwise."""

    drafts: int
    """All, with the rejected ones."""
    kept: int
    topics: dict[str, dict[str, int]]
    """Per topic, in the usual order: difficulty to count."""
    splits: dict[str, dict[str, int]]
    """Per topic: split to count."""
    stages: list[StageCount]
    instruction_words: float
    """Mean."""
    reference_words: float
    """Mean."""
    utterances: int
    voices: int
    spoken_hours: float

    @property
    def topic_counts(self) -> dict[str, int]:
        """Drafts per topic."""
        return {topic: sum(counts.values()) for topic, counts in self.topics.items()}

    @property
    def difficulty_counts(self) -> dict[str, int]:
        """Drafts per difficulty, over all topics."""
        total: Counter[str] = Counter()
        for counts in self.topics.values():
            total.update(counts)
        return _in_order(total, DIFFICULTIES)


def describe(drafts: Iterable[Draft]) -> Description:
    """Count drafts, which are looked at once."""
    count = kept = instruction_words = reference_words = utterances = 0
    seconds = 0.0
    topics: dict[str, Counter[str]] = {}
    splits: dict[str, Counter[str]] = {}
    rejected: dict[str, Counter[str]] = {}
    voices: set[str] = set()
    for draft in drafts:
        count += 1
        if not draft.kept:
            stage, _, reason = draft.rejected.partition(": ")
            rejected.setdefault(stage, Counter())[reason or UNNAMED] += 1
            continue
        kept += 1
        topic = draft.topic or UNNAMED
        topics.setdefault(topic, Counter())[draft.difficulty or UNNAMED] += 1
        splits.setdefault(topic, Counter())[draft.split or UNNAMED] += 1
        instruction_words += words(draft.instruction)
        reference_words += words(draft.reference)
        spoken = [utterance for utterance in draft.utterances if utterance.audio]
        utterances += len(spoken)
        voices.update(utterance.speaker for utterance in spoken)
        seconds += sum(utterance.duration_s for utterance in spoken)
    order = list(_in_order(Counter({topic: sum(counts.values()) for topic, counts in topics.items()}), TOPICS))
    return Description(
        drafts=count,
        kept=kept,
        topics={topic: _in_order(topics[topic], DIFFICULTIES) for topic in order},
        splits={topic: _in_order(splits[topic], SPLITS) for topic in order},
        stages=_stages(count, rejected),
        instruction_words=instruction_words / max(kept, 1),
        reference_words=reference_words / max(kept, 1),
        utterances=utterances,
        voices=len(voices),
        spoken_hours=seconds / 3600,
    )


def as_dict(description: Description) -> dict[str, object]:
    """For JSON."""
    return {
        **msgspec.to_builtins(description),
        "topic_counts": description.topic_counts,
        "difficulty_counts": description.difficulty_counts,
    }


def tables(description: Description) -> Group:
    """Three tables for a terminal."""
    return Group(_topic_table(description), _difficulty_table(description), _stage_table(description))


def percent(part: int, whole: int) -> float:
    """Of a whole that may be 0."""
    return 100 * part / whole if whole else 0.0


def comparable(counts: dict[str, int], paper: dict[str, float]) -> dict[str, float]:
    """The paper's shares where `counts` has at least two of its names; empty otherwise."""
    return paper if len(counts.keys() & paper.keys()) > 1 else {}


def _topic_table(description: Description) -> Table:
    counts = description.topic_counts
    paper = comparable(counts, PAPER_TOPICS)
    table = Table(title=f"Topics of {description.kept:,} instructions", title_justify="left")
    shown = [split for split in (*SPLITS, UNNAMED) if any(split in each for each in description.splits.values())]
    for heading in ("topic", "count", "%", *(["paper %"] if paper else []), *shown):
        table.add_column(heading, justify="left" if heading == "topic" else "right")
    for topic, count in counts.items():
        share = [f"{paper[topic]:.1f}" if topic in paper else ""] if paper else []
        table.add_row(
            topic, f"{count:,}", f"{percent(count, description.kept):.1f}", *share,
            *(f"{description.splits[topic].get(split, 0):,}" for split in shown),
        )  # fmt: skip
    return table


def _difficulty_table(description: Description) -> Table:
    counts = description.difficulty_counts
    paper = comparable(counts, PAPER_DIFFICULTIES)
    table = Table(title="Difficulty", title_justify="left")
    for heading in ("difficulty", "count", "%", *(["paper %"] if paper else [])):
        table.add_column(heading, justify="left" if heading == "difficulty" else "right")
    for difficulty, count in counts.items():
        share = [f"{paper[difficulty]:.1f}" if difficulty in paper else ""] if paper else []
        table.add_row(difficulty, f"{count:,}", f"{percent(count, description.kept):.1f}", *share)
    return table


def _stage_table(description: Description) -> Table:
    table = Table(title=f"From {description.drafts:,} drafts to {description.kept:,}", title_justify="left")
    for heading in ("stage", "reached", "kept", "rejected, by reason"):
        table.add_column(heading, justify="right" if heading in ("reached", "kept") else "left")
    for each in description.stages:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in each.rejected.items())
        table.add_row(each.stage, f"{each.reached:,}", f"{each.kept:,}", reasons)
    return table


def _stages(count: int, rejected: dict[str, Counter[str]]) -> list[StageCount]:
    """Stages that have rejected something, in their order."""
    stages = []
    for stage in sorted(rejected, key=lambda stage: (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)):
        reasons = dict(sorted(rejected[stage].items(), key=lambda item: (-item[1], item[0])))
        stages.append(StageCount(stage, count, reasons))
        count = stages[-1].kept
    return stages


def _in_order(counts: Counter[str], usual: Sequence[str]) -> dict[str, int]:
    """The usual names first and in their order, then others, the commonest first."""
    others = sorted((name for name in counts if name not in usual), key=lambda name: (-counts[name], name))
    return {name: counts[name] for name in (*usual, *others) if name in counts}
