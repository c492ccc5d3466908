"""Text as people say it: numbers, dates, currencies, units, abbreviations and symbols in words. Edge: wetext.

wetext runs compiled grammars (English, Chinese, Japanese), in some milliseconds a sentence; what they leave is replaced here.
"""

from __future__ import annotations

import re
import threading
from typing import Any

from protocol.errors import UserError

LANGUAGES = frozenset({"en", "zh", "ja"})
"""Those that are written out; texts of others stay as they are."""
PLAIN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*[.,;:!?…]*(?:\s+|$)")
"""A word that is said as it is written, when no grammar asks for it."""
LONGEST_ABBREVIATION = 4
SHORT = {
    "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera", "vs.": "versus", "vs": "versus", "approx.": "approximately",
    "w/": "with", "w/o": "without", "&": "and", "@": "at",
}  # fmt: skip
ABBREVIATION = re.compile(r"(?<![\w.])(?:" + "|".join(re.escape(each) for each in sorted(SHORT, key=len, reverse=True)) + r")(?!\w)")
DECADE = re.compile(r"(?<![\w.,])(1[1-9]|20)?'?([1-9]0)['’]?s\b")
METRES = re.compile(r"(?<=\d) ?m(?=[\s).,;:!?]|$)")
DECADES = {
    "10": "tens", "20": "twenties", "30": "thirties", "40": "forties", "50": "fifties", "60": "sixties", "70": "seventies",
    "80": "eighties", "90": "nineties",
}  # fmt: skip
CENTURIES = {
    "11": "eleven", "12": "twelve", "13": "thirteen", "14": "fourteen", "15": "fifteen", "16": "sixteen", "17": "seventeen",
    "18": "eighteen", "19": "nineteen", "20": "twenty",
}  # fmt: skip


class SpokenForm:
    """Writes text out, as far as the grammars of its language know it."""

    def __init__(self) -> None:
        """Raises `UserError` where wetext is not installed."""
        try:
            import wetext
        except ImportError as error:
            raise UserError(
                "numbers are to be written out by wetext, which is not installed",
                where="speech.spoken_form",
                fix="pip install 'rba[speech]', or set speech.spoken_form=never",
            ) from error
        self._normalizer = wetext.Normalizer
        self._grammars: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, text: str, language: str) -> str:
        """`text` in words; itself where there is nothing to write out."""
        base = language.lower().split("-")[0]
        if base not in LANGUAGES or (base == "en" and is_plain(text)):
            return text
        if base == "en":
            text = _before(text)
        with self._lock:
            if base not in self._grammars:
                self._grammars[base] = self._normalizer(lang=base, operator="tn")
            return str(self._grammars[base].normalize(text)).replace('\\"', '"')


def is_plain(text: str) -> bool:
    """True for words and punctuation alone, none of them an abbreviation."""
    position = 0
    while position < len(text):
        word = PLAIN.match(text, position)
        if word is None or _is_short(word.group()):
            return False
        position = word.end()
    return True


def _is_short(word: str) -> bool:
    """An abbreviation, such as Dr. or km, or letters that are read one by one, such as IV."""
    word = word.strip()
    letters = word.rstrip(".,;:!?…")
    if word in SHORT or letters in SHORT:
        return True
    return (word.endswith(".") and len(letters) <= LONGEST_ABBREVIATION) or (len(letters) > 1 and letters.isupper())


def _before(text: str) -> str:
    """Replaces what the English grammar misreads, decades as seconds and metres as minutes, and abbreviations that it does not know."""
    text = DECADE.sub(lambda found: f"{CENTURIES.get(found[1] or '', '')} {DECADES[found[2]]}".strip(), text)
    text = METRES.sub(" meters", text)
    return ABBREVIATION.sub(lambda found: SHORT[found.group()], text)
