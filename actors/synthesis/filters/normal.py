"""When two instructions are the same to a listener."""

from __future__ import annotations

import unicodedata

APOSTROPHES = frozenset("'’‘ʼ`´")


class _Folding(dict[int, str | None]):
    """Code points to what takes their place: apostrophes go, other punctuation and controls become spaces. Filled as they come."""

    def __missing__(self, point: int) -> str | None:
        character = chr(point)
        if character in APOSTROPHES:
            folded: str | None = None
        else:
            folded = " " if unicodedata.category(character)[0] in "PZC" else character
        self[point] = folded
        return folded


_FOLDING = _Folding()


def normal(text: str) -> str:
    """The text without what nobody hears: NFKC, case folded, without punctuation, one space between words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().translate(_FOLDING).split())
