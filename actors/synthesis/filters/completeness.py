"""Texts that stop too early, or do not stop. Pure; each finder returns what it found, or ""."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLANK = re.compile(r"_{2,}|\.{4,}|…{2,}|\[[^\]\n]*\]|<[a-z][^<>\n]*>|(?<![\w}])\{[a-z][^}\n]*\}|\b[xX]{3,}\b")
_BLANK_SIGNS = re.compile(r"[_\[<{…]|\.{4}|[xX]{3}")
_OPEN_ENDS = tuple(",:;-–—(/&、，：；（")
_BRACKETS = (("(", ")"), ("“", "”"), ("「", "」"), ("«", "»"))
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+")
LONGEST_PERIOD = 24
REFUSALS = (
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b.{0,60}\b(?:can(?:'t|not)|unable|not able|won't)\b",
    r"\bI (?:can(?:'t|not)|won't|am unable to|am not able to) (?:help|assist|provide|create|fulfil|comply|answer|engage|generate|support)",
    r"\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b",
    r"\bI don't have (?:access to|the ability|personal|real-time)\b",
)
"""How an English assistant declines, within the first 200 characters."""


def blank(text: str) -> str:
    """A place to fill in: "____", "[your name]", "<city>"."""
    found = _BLANK.search(text) if _BLANK_SIGNS.search(text) else None
    return found.group()[:80] if found else ""


def truncated(text: str) -> str:
    """An end that leaves something open: a comma or colon, a dash, a bracket or quotation mark that is never closed."""
    text = text.rstrip()
    if text.endswith(_OPEN_ENDS):
        return text[-1]
    for opening, closing in _BRACKETS:
        if text.count(opening) > text.count(closing):
            return opening
    return '"' if text.count('"') % 2 and not re.search(r'\d"', text) else ""


def repeating(text: str, times: int = 4) -> str:
    """Words that follow themselves, at least `times` in all; for up to three words it takes twice as often, for children say "ho ho ho ho".

    Looks for what is up to `LONGEST_PERIOD` words long.
    """
    words = _WORD.findall(text.casefold())
    if len(words) - len(set(words)) < 2 * times - 1:
        return ""
    for period in range(1, min(LONGEST_PERIOD, len(words) // times) + 1):
        needed = period * ((times if period > 3 else 2 * times) - 1)
        # A run of that length covers one of these places.
        for place in range(period + needed - 1, len(words), needed):
            first = last = place
            while first >= period and words[first] == words[first - period]:
                first -= 1
            while last < len(words) and words[last] == words[last - period]:
                last += 1
            if last - first - 1 >= needed:
                return " ".join(words[last - period : last])
    return ""


def refusal(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    """The part of the text's first 200 characters that declines to answer."""
    start = text[:200].replace("’", "'")
    for pattern in patterns:
        if found := pattern.search(start):
            return found.group()[:80]
    return ""
