"""sacrebleu's sentence BLEU against one reference, bit for bit, at several times its speed.

Tokenizers and formula (`BLEU.compute_bleu`) are sacrebleu's own; what costs its time is done less often:

- 13a and zh substitute by regular expressions around every space and every Chinese character. No pattern looks beyond one of these, so they
  are asked about the pieces in between, and the answers are remembered.
- All n-grams of both sides are counted each time. Here those of a reference are kept (many answers share one), and of an answer only
  those are looked at that the reference has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU

from actors.rewards.scorers.memo import Memo

ORDERS = 4
KEPT_BYTES, REFERENCE_BYTES, WORD_BYTES = 48 << 20, 1200, 520
"""Of references; a word with its n-grams takes so much."""
FEW = 8
"""So many are counted faster one by one than with all others."""
KEPT_PIECES = 1 << 16
LONGEST_PIECE = 64
"""Longer ones, in characters, are no words that come again."""
CHINESE = "中"
"""Any character that the tokenizer zh sets apart."""

Ngram = Hashable
"""A word, or a tuple of two to four words."""
Tokenize = Callable[[str], Sequence[str]]


class Known(NamedTuple):
    """The n-grams of one order that a reference has."""

    distinct: frozenset[Ngram]
    repeated: dict[Ngram, int]
    """How often those occur that occur more than once."""


class Counted(NamedTuple):
    """A tokenized reference."""

    words: int
    ngrams: list[Known]
    """By order minus 1."""


class SentenceBleu:
    """BLEU with exponential smoothing and effective order, without which a sentence shorter than four words scores 0."""

    def __init__(self, tokenizer: str) -> None:
        """RuntimeError when the package of the tokenizer is missing."""
        self.metric: Any = BLEU(tokenize=tokenizer, effective_order=True)
        self._words = {"13a": by_word, "zh": by_character}.get(tokenizer, whole)(self.metric.tokenizer)
        self._counted = Memo(self._count, KEPT_BYTES, lambda counted: REFERENCE_BYTES + WORD_BYTES * counted.words)

    def __call__(self, answer: str, reference: str) -> Any:
        """The `BLEUScore` that sacrebleu gives, from 0 to 100."""
        words, counted = self._words(answer.rstrip()), self._counted(reference)
        correct, total = [0] * ORDERS, [max(0, len(words) - order) for order in range(ORDERS)]
        for order, known in enumerate(counted.ngrams):
            matched = known.distinct.intersection(ngrams(words, order))
            if not matched:
                break  # a longer match would hold a shorter one
            correct[order] = len(matched)
            if again := known.repeated.keys() & matched:
                own = list(ngrams(words, order))
                count = own.count if len(again) <= FEW else Counter(own).__getitem__
                correct[order] += sum(min(count(ngram), known.repeated[ngram]) - 1 for ngram in again)
        return self.metric.compute_bleu(correct, total, len(words), counted.words, smooth_method="exp", effective_order=True)

    def _count(self, reference: str) -> Counted:
        words = self._words(reference.rstrip())
        counts = [Counter(ngrams(words, order)) for order in range(ORDERS)]
        return Counted(
            len(words), [Known(frozenset(each), {ngram: count for ngram, count in each.items() if count > 1}) for each in counts]
        )


def ngrams(words: Sequence[str], order: int) -> Iterable[Ngram]:
    """All of length `order` + 1, in their order."""
    match order:
        case 0:
            return words
        case 1:
            return pairwise(words)
        case 2:
            return zip(words, words[1:], words[2:], strict=False)
        case _:
            return zip(words, words[1:], words[2:], words[3:], strict=False)


# --- tokenizers ---------------------------------------------------------------------------------------------


def whole(tokenizer: Any) -> Tokenize:
    """Ask about the whole line."""
    return lambda line: tokenizer(line).split()


def by_word(tokenizer: Any) -> Tokenize:
    """Ask 13a word by word."""

    def ask(word: str) -> Sequence[str]:
        return tokenizer(word).split()  # type: ignore[no-any-return]

    parts = lru_cache(maxsize=KEPT_PIECES)(ask)

    def tokenize(line: str) -> Sequence[str]:
        if "-\n" in line or "<skipped>" in line:  # 13a joins words that a line break divides, once it has taken this word out
            return tokenizer(line).split()  # type: ignore[no-any-return]
        return [part for word in line.split() for part in (parts if len(word) <= LONGEST_PIECE else ask)(word)]

    return tokenize


def by_character(tokenizer: Any) -> Tokenize:
    """Ask zh about what stands between Chinese characters, which are words of their own."""
    chinese = _chinese_characters(tokenizer)
    pieces = re.compile(f"[{chinese}]|[^{chinese}]+")
    is_chinese = frozenset(chinese)

    def ask(piece: str, before: str, after: str) -> Sequence[str]:
        words = tokenizer(f"{before}{piece}{after}").split()
        return words[bool(before) : len(words) - bool(after)]  # type: ignore[no-any-return]

    between = lru_cache(maxsize=KEPT_PIECES)(ask)

    def tokenize(line: str) -> Sequence[str]:
        found, words = pieces.findall(line.strip()), list[str]()
        for place, piece in enumerate(found):
            if piece not in is_chinese:
                words += (between if len(piece) <= LONGEST_PIECE else ask)(
                    piece, CHINESE if place else "", CHINESE if place + 1 < len(found) else ""
                )
            elif not piece.isspace():
                words.append(piece)
        return words

    return tokenize


def _chinese_characters(tokenizer: Any) -> str:
    """What it sets apart; its ranges, compared as text, are other ones than they look like, and end below U+10000."""
    return "".join(filter(tokenizer._is_chinese_char, map(chr, range(0x10000))))  # noqa: SLF001 - no public name
