"""Whether the answer to a question is right: it contains an acceptable answer, or is one.

Containment is the convention of open-domain question answering (`has_answer` of Dense Passage Retrieval): the words of an acceptable answer
occur in the answer, one after the other. Exact match is SQuAD's.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.scorers import languages
from actors.rewards.scorers.memo import Memo
from actors.rewards.scorers.references import missing_reference
from configs.scorers import QaSection

UNSPACED = frozenset((*languages.CHINESE, *languages.JAPANESE, *languages.THAI, *languages.LAO, *languages.BURMESE, *languages.KHMER))
"""Languages without spaces between words: each letter is one, or a short answer would never be found in a sentence."""
KEPT_BYTES, WORD_BYTES = 16 << 20, 64
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class QaScorer:
    """1 for a right answer, 0 for a wrong one."""

    def __init__(self, section: QaSection) -> None:
        self._which = section.score
        self._signature = f"qa|score:{section.score}|containment:dpr-has-answer|exact:squad|unicode:{unicodedata.unidata_version}"

    @property
    def signature(self) -> str:
        """What counts as right, and the tables of characters that decide what a word is."""
        return self._signature

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """Containment or exact match of any acceptable answer, both as parts; no acceptable answer is an error."""
        return [self._score(item) for item in items]

    def _score(self, item: RewardItem) -> RewardScore:
        accepted = [text for text in (item.reference or "", *item.answers) if text.strip()]
        if not accepted:
            return missing_reference(item, "qa")
        unspaced = languages.base(item.language) in UNSPACED
        said = words(item.answer, unspaced)
        parts = {
            "containment": float(any(contains(said, words(text, unspaced)) for text in accepted)),
            "exact": float(normalise(item.answer) in {normalise(text) for text in accepted}),
        }
        return RewardScore(item.id, parts[self._which], parts)


def split(text: str, unspaced: bool) -> tuple[str, ...]:
    """Runs of letters, digits and marks, in lower case, and every other character but space as a word of its own; decomposed (NFD).

    `unspaced`: letters of scripts without case, such as Han, kana and Thai, are words of their own, with the marks on them.
    """
    pieces: list[str] = []
    grows = ""  # the categories that go on with the last word
    for character in unicodedata.normalize("NFD", text):
        category = unicodedata.category(character)
        if category[0] in "ZC":
            grows = ""
            continue
        alone = unspaced and category in {"Lo", "Lm"}
        if category[0] in grows and not alone:
            pieces[-1] += character
        else:
            pieces.append(character)
            grows = "M" if alone else "LNM" if category[0] in "LNM" else ""
    return tuple(piece.lower() for piece in pieces)


words = Memo(split, KEPT_BYTES, lambda found: WORD_BYTES * len(found))
"""`split`, which is asked about the same reference for each voice's answer."""


def contains(said: Sequence[str], wanted: Sequence[str]) -> bool:
    """True when all of `wanted` stands in `said`, one after the other; nothing contains no words."""
    size = len(wanted)
    return bool(size) and any(said[start : start + size] == wanted for start in range(len(said) - size + 1))


def normalise(text: str) -> str:
    """In lower case, without punctuation, articles and spare spaces; what is nothing but these stays."""
    lower = text.lower()
    return " ".join(ARTICLES.sub(" ", lower.translate(PUNCTUATION)).split()) or " ".join(lower.split())
