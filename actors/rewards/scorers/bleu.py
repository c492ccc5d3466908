"""Sentence BLEU against the teacher's reference, as a reward between 0 and 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from actors.rewards.items import RewardItem, RewardScore, unscored
from actors.rewards.scorers import languages
from actors.rewards.scorers.references import has_reference, missing_reference
from actors.rewards.scorers.sentence_bleu import SentenceBleu
from protocol.errors import UserError

TOKENIZERS = {
    **dict.fromkeys(languages.CHINESE, "zh"),
    **dict.fromkeys(languages.JAPANESE, "ja-mecab"),
    **dict.fromkeys(languages.KOREAN, "ko-mecab"),
    **dict.fromkeys((*languages.THAI, *languages.LAO, *languages.BURMESE), "char"),
}
"""sacrebleu's tokenizers by target language; every other language takes 13a. Chinese, Japanese and Korean have those that sacrebleu itself
takes for them; Thai, Lao and Burmese, written without spaces, are cut into characters as in the evaluations of Whisper and SeamlessM4T."""


def tokenizer_of(language: str) -> str:
    """The tokenizer that sacrebleu takes for a language code (see `languages.base`)."""
    return TOKENIZERS.get(languages.base(language), "13a")


def require_tokenizers(wanted: Iterable[str], where: str) -> None:
    """Raises `UserError` when the tokenizer of a language needs a package that is not installed."""
    for language in sorted(set(wanted)):
        tokenizer = tokenizer_of(language)
        try:
            _metric(tokenizer)
        except RuntimeError:
            raise UserError(
                f"BLEU of the language {language!r} needs the tokenizer {tokenizer}, which is not installed",
                where=where,
                fix=f"install {extra_of(tokenizer)} on every machine",
            ) from None


def extra_of(tokenizer: str) -> str:
    """What to install for it."""
    return f"'rba[{tokenizer.partition('-')[0]}]'"


@cache
def _metric(tokenizer: str) -> SentenceBleu:
    """RuntimeError when the tokenizer's package is missing."""
    return SentenceBleu(tokenizer)


class BleuScorer:
    """sacrebleu's sentence BLEU divided by 100 (exponential smoothing, effective order, cased)."""

    def __init__(self) -> None:
        metric = _metric("13a").metric
        metric.sentence_score("a", ["a"])  # a signature tells the number of references, which are known then
        by_language = ",".join(f"{language}={tokenizer}" for language, tokenizer in TOKENIZERS.items() if len(language) == 2)
        self._signature = str(metric.get_signature()).replace("tok:13a", f"tok:13a,{by_language}")

    @property
    def signature(self) -> str:
        """The signature of sacrebleu, with the tokenizers of the other languages beside 13a."""
        return self._signature

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """Sentence BLEU of each item; an empty answer is a plain 0, a missing reference an error."""
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> RewardScore:
        if item.reference is None or not has_reference(item):
            return missing_reference(item, "BLEU")
        tokenizer = tokenizer_of(item.language)
        try:
            metric = _metric(tokenizer)
        except RuntimeError:
            return unscored(item.id, f"no_tokenizer: language {item.language} needs {tokenizer}; install {extra_of(tokenizer)} there")
        result = metric(item.answer, item.reference)
        return RewardScore(item.id, result.score / 100, {"brevity_penalty": result.bp})
