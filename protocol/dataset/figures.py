"""What a data set is made of: counts, hours, durations, topics, languages, voices, words. Edge: the file system."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from protocol.dataset.dataset import DataSet
from protocol.dataset.lines import Line

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Numbers = list[tuple[float, float]]
"""(quantile, value), from the least to the largest; empty where there is nothing."""
Progress = Callable[[int, int], None]
"""Told how many groups are done, and how many there are."""


class Figures(msgspec.Struct):
    """Of one manifest."""

    name: str
    digest: str
    growing: bool
    groups: int
    utterances: int
    spoken: int
    """Utterances that have audio."""
    written: int
    """Utterances that are plain text."""
    shards: int
    files: int
    """Audio in files of its own."""
    hours: float
    """Of all spoken utterances, by the manifest."""
    duration_s: Numbers
    instruction_words: Numbers
    reference_words: Numbers
    topics: dict[str, int]
    """Groups of each, the most frequent first."""
    languages: dict[str, int]
    """Of the references, in groups."""
    voices: dict[str, int]
    """Utterances that each has spoken."""
    durations_s: NDArray[np.float64] = msgspec.field(default_factory=lambda: np.empty(0))
    """``[spoken utterance]``; not printed."""


def figures(data: DataSet, name: str, progress: Progress = lambda *_: None) -> Figures:
    """Count everything in one manifest."""
    count = _Count()
    total = len(data.groups)
    for number in range(total):
        count.add(data.groups.line(number))
        if not number % 1000:
            progress(number, total)
    progress(total, total)
    durations_s = np.frombuffer(count.durations_s, np.float64)
    return Figures(
        name,
        data.digest,
        data.growing,
        groups=total,
        utterances=count.utterances,
        spoken=len(durations_s),
        written=count.utterances - len(durations_s),
        shards=len(count.shards),
        files=count.files,
        hours=float(durations_s.sum()) / 3600,
        duration_s=_quantiles(durations_s),
        instruction_words=_quantiles(np.frombuffer(count.instruction_words, np.int32)),
        reference_words=_quantiles(np.frombuffer(count.reference_words, np.int32)),
        topics=dict(count.topics.most_common()),
        languages=dict(count.languages.most_common()),
        voices=dict(count.voices.most_common()),
        durations_s=durations_s,
    )


def as_json(counted: Figures) -> dict[str, Any]:
    """For ``--json``."""
    whole = {name: getattr(counted, name) for name in counted.__struct_fields__ if name != "durations_s"}
    return {**whole, **{name: dict(whole[name]) for name in ("duration_s", "instruction_words", "reference_words")}}


class _Count:
    def __init__(self) -> None:
        self.durations_s, self.instruction_words, self.reference_words = array("d"), array("i"), array("i")
        self.topics: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.voices: Counter[str] = Counter()
        self.shards: set[str] = set()
        self.utterances = self.files = 0

    def add(self, line: Line) -> None:
        self.topics[line.topic] += 1
        self.languages[line.language] += 1
        self.instruction_words.append(len(line.instruction.split()))
        self.reference_words.append(len(line.reference.split()))
        self.utterances += len(line.utterances)
        for one in line.utterances:
            if one.audio is None:
                continue
            self.voices[one.speaker] += 1
            self.durations_s.append(one.duration_s)
            if one.offset is None:
                self.files += 1
            else:
                self.shards.add(one.path or "")


def _quantiles(values: NDArray[Any]) -> Numbers:
    if not len(values):
        return []
    return [(each, round(float(value), 3)) for each, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)]
