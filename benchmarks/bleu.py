"""How fast BLEU scores on one core, beside sacrebleu's own `sentence_score`, at equal scores bit for bit.

    python -m benchmarks.bleu [--count N] [--json FILE]

Four answers share a reference, as four voices do, and have about four fifths of its words; no two texts are equal. Both count the
same texts in turns, in seconds of the processor; the best turn of each stands, for others use the machine as well.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from sacrebleu.metrics import BLEU

from actors.rewards.items import RewardItem
from actors.rewards.scorers.bleu import BleuScorer, tokenizer_of
from benchmarks.command import command
from benchmarks.rows import row

GOAL = 5000.0
"""Sentences a second and core."""
VOICES = 4
TURNS = 12
SYLLABLES = [consonant + vowel for consonant in "bcdfglmnprstvz" for vowel in "aeiou"]
HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]

Sentence = Callable[[random.Random, Sequence[str]], str]


def vocabulary(drawn: random.Random, size: int = 20_000) -> list[str]:
    """Words of one to four syllables."""
    return ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 4))) for _ in range(size)]


def written(drawn: random.Random, words: Sequence[str]) -> str:
    """As people write: a capital, some commas, a number now and then, a full stop."""
    said = [f"{word}," if drawn.random() < 0.08 else "1,250" if drawn.random() < 0.02 else word for word in words]
    return f"{' '.join(said).capitalize()}."


def made(
    drawn: random.Random, count: int, words: Sequence[str], lengths: tuple[int, int], language: str, join: Sentence
) -> list[RewardItem]:
    """`count` items; common words are common."""
    weights = [1 / (place + 10) for place in range(len(words))]
    items: list[RewardItem] = []
    while len(items) < count:
        reference = drawn.choices(words, weights, k=drawn.randint(*lengths))
        text = join(drawn, reference)
        for _ in range(VOICES):
            answer = [word if drawn.random() < 0.8 else drawn.choice(words) for word in reference]
            items.append(RewardItem(str(len(items)), "translate", join(drawn, answer), text, language))
    return items[:count]


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Seconds of the processor, and what `work` gives."""
    started_s = time.process_time()
    scores = work()
    return time.process_time() - started_s, scores


def compared(case: str, batches: Sequence[list[RewardItem]]) -> list[dict[str, Any]]:
    """The rows of one case. Raises `AssertionError` when a score differs."""
    scorer, peer = BleuScorer(), BLEU(tokenize=tokenizer_of(batches[0][0].language), effective_order=True)
    rates: list[tuple[float, float]] = []
    for items in batches:
        ours_s, ours = timed(lambda items=items: [score.score or 0.0 for score in scorer.score(items)])  # type: ignore[misc]
        theirs_s, theirs = timed(lambda items=items: [peer.sentence_score(i.answer, [i.reference]).score / 100 for i in items])  # type: ignore[misc]
        if ours != theirs:
            raise AssertionError(f"{case}: a score differs from sacrebleu's")
        rates.append((len(items) / ours_s, len(items) / theirs_s))
    ours_rate, theirs_rate = (max(each) for each in zip(*rates, strict=True))
    return [
        row(f"BLEU, {case}", "sentences/s", ours_rate, "goal", GOAL, 1.0),
        row(f"BLEU, {case}", "sentences/s", ours_rate, "sacrebleu", theirs_rate, None),
    ]


def measure(count: int = 2_000) -> list[dict[str, Any]]:
    """Every row."""
    drawn = random.Random(0)
    words = vocabulary(drawn)
    cases: list[tuple[str, Sequence[str], tuple[int, int], str, Sentence]] = [
        ("10 to 25 words", words, (10, 25), "en", written),
        ("5 words, as in the quickstart", words, (5, 5), "en", lambda _, said: " ".join(said)),
        ("15 to 40 characters of Chinese", HAN, (15, 40), "zh", lambda _, said: "".join(said) + "。"),
    ]
    rows: list[dict[str, Any]] = []
    for case, said, lengths, language, join in cases:
        rows += compared(case, [made(drawn, count, said, lengths, language, join) for _ in range(TURNS)])
    return rows


if __name__ == "__main__":
    command("bleu", __doc__, measure, {"count": {"type": int, "default": 2_000, "help": "sentences a turn"}})
