"""What an evaluation lease measures: the greedy answers to one group's utterances, as sums that add up over groups.

Accuracy counts answers that equal the reference, or a further acceptable answer, after normalisation. BLEU's counts are sacrebleu's
sufficient statistics of all answers against the reference. Consistency is the mean pairwise chrF of the answers to the group's
*voices*; the answer to the written instruction belongs to the accuracy, but is no voice.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from actors.rewards.scorers.bleu import tokenizer_of
from protocol.measures import GroupMeasures
from protocol.messages import Completion, InstructionGroup

PUNCTUATION = re.compile(r"[\W_]+")


def measure(group: InstructionGroup, completions: Sequence[Completion]) -> GroupMeasures:
    """Measures of the answers to `group`; `completions` name their utterance."""
    texts = [each.text for each in completions]
    voices = [each.text for each in completions if group.utterances[each.utterance].audio is not None]
    accepted = {normalise(text) for text in (group.reference, *group.answers)}
    pairs = list(itertools.combinations(voices, 2))
    rewards = [each.reward for each in completions if each.reward is not None]
    return GroupMeasures(
        answers=len(texts),
        exact=sum(normalise(text) in accepted for text in texts),
        bleu_counts=bleu_counts(texts, group.reference, group.language),
        consistency=sum(chrf(*pair) for pair in pairs) / len(pairs) if pairs else None,
        agreement=sum(normalise(one) == normalise(other) for one, other in pairs) / len(pairs) if pairs else None,
        reward_sum=float(sum(rewards)),
        scored=len(rewards),
        truncated=sum(each.finish_reason != "stop" for each in completions),
    )


def normalise(text: str) -> str:
    """Lower case (of all scripts), compatibility forms folded, runs of punctuation and space as one space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", folded)).strip()


def bleu_counts(texts: Sequence[str], reference: str, language: str = "en") -> list[int]:
    """Sufficient statistics of sacrebleu for `texts`, each against `reference`: system length, reference length, 4 matches, 4 totals.

    The tokenizer is the language's; `require_tokenizers` says beforehand whether it is there.
    """
    if not texts:
        return [0] * 10
    score = _bleu(tokenizer_of(language)).corpus_score(list(texts), [[reference] * len(texts)])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def chrf(one: str, other: str) -> float:
    """How alike two answers are, from 0 to 1: their chrF in both directions, averaged; equal ones have 1, also empty ones."""
    if one == other:
        return 1.0
    metric = _chrf()
    return float(metric.sentence_score(one, [other]).score + metric.sentence_score(other, [one]).score) / 200


@functools.cache
def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer)


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
