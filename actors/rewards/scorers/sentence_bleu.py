"""sacrebleu's sentence BLEU against one reference, bit for bit, at several times its speed.

Tokenizers and formula (`BLEU.compute_bleu`) are sacrebleu's own; what costs its time is done less often:

- 13a substitutes by regular expressions around every space. No pattern looks beyond one space, so it is asked word by word, and remembered.
- All n-grams of both sides are counted each time. Here those of a reference are kept (many answers share one), and of an answer only
  those are counted that the reference has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU

ORDERS = 4
KEPT_REFERENCES = 1 << 12
KEPT_WORDS = 1 << 16

Ngram = Hashable
"""A word, or a tuple of two to four words."""


class Counted(NamedTuple):
    """A tokenized reference."""

    words: int
    ngrams: list[Counter[Ngram]]
    """How often each n-gram occurs, by its order minus 1."""


class SentenceBleu:
    """BLEU with exponential smoothing and effective order, without which a sentence shorter than four words scores 0."""

    def __init__(self, tokenizer: str) -> None:
        """RuntimeError when the package of the tokenizer is missing."""
        self.metric: Any = BLEU(tokenize=tokenizer, effective_order=True)
        self._by_word = tokenizer == "13a"
        self._parts = lru_cache(maxsize=KEPT_WORDS)(self._tokenized)
        self._counted = lru_cache(maxsize=KEPT_REFERENCES)(self._count)

    def __call__(self, answer: str, reference: str) -> Any:
        """The `BLEUScore` that sacrebleu gives, from 0 to 100."""
        words, counted = self._words(answer), self._counted(reference)
        correct, total = [0] * ORDERS, [max(0, len(words) - order) for order in range(ORDERS)]
        for order, known in enumerate(counted.ngrams):
            matched = [ngram for ngram in _ngrams(words, order) if ngram in known]
            if not matched:
                break  # a longer match would hold a shorter one
            correct[order] = len(matched)
            if len(set(matched)) < len(matched):
                correct[order] = sum(min(count, known[ngram]) for ngram, count in Counter(matched).items())
        return self.metric.compute_bleu(correct, total, len(words), counted.words, smooth_method="exp", effective_order=True)

    def _count(self, reference: str) -> Counted:
        words = self._words(reference)
        return Counted(len(words), [Counter(_ngrams(words, order)) for order in range(ORDERS)])

    def _words(self, text: str) -> Sequence[str]:
        line = text.rstrip()
        if self._by_word and "-\n" not in line:  # 13a joins words that a line break divides
            return [part for word in line.split() for part in self._parts(word)]
        return self._tokenized(line)

    def _tokenized(self, line: str) -> tuple[str, ...]:
        return tuple(self.metric.tokenizer(line).split())


def _ngrams(words: Sequence[str], order: int) -> Iterable[Ngram]:
    """Of length `order` + 1, in their order."""
    match order:
        case 0:
            return words
        case 1:
            return pairwise(words)
        case 2:
            return zip(words, words[1:], words[2:], strict=False)
        case _:
            return zip(words, words[1:], words[2:], words[3:], strict=False)
