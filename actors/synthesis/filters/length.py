"""How long a text is when it is spoken. Pure; estimates."""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
"""Runs of scripts that write no spaces: Thai, Lao, Burmese, Khmer, kana, ideographs."""
_PAUSES_S = {**dict.fromkeys(".!?;:…。！？；：؟।", 0.4), **dict.fromkeys(",–—、，،", 0.2), "\n": 0.4}


def words(text: str) -> int:
    """Words, parted by spaces; of scripts without spaces two characters count as one."""
    if text.isascii():
        return len(text.split())
    unspaced = sum(-(-len(run) // 2) for run in _UNSPACED.findall(text))
    return unspaced + len(_UNSPACED.sub(" ", text).split())


class _Costs(dict[str, float]):
    """Seconds by character, filled as they come."""

    def __missing__(self, character: str) -> float:
        cost = self[character] = _cost(character)
        return cost


def spoken_s(text: str) -> float:
    """About how long a speaker takes, in seconds: some 160 English words a minute, 270 ideographs, a digit as long as a short word."""
    return sum(map(_COSTS.__getitem__, text))


def _cost(character: str) -> float:
    if character in _PAUSES_S:
        return _PAUSES_S[character]
    category = unicodedata.category(character)
    if category == "Lo":
        name = unicodedata.name(character, "")
        if name.startswith("CJK"):
            return 0.22
        if name.startswith(("HANGUL", "HIRAGANA", "KATAKANA")):
            return 0.15
    if category[0] == "L":
        return 0.07
    if category[0] in "NS":
        return 0.3
    return 0.07 if category == "Zs" else 0.0


_COSTS = _Costs()
