"""The second language of the micro-world: what its instructions are translated into.

Every English word has one word of its own, a syllable of two letters' groups ("lan", "ger"), which the tokenizer spells with two
tokens. The order of words follows two rules:

1. the first word, which says what is asked for, comes last;
2. the words on both sides of a link ("of", "and", "or") change places.

So "name the opposites of hot and dry" becomes, word for word, "the hot of opposites and dry name". A text has one translation and a
translation one text: the dictionary pairs words one to one, and each rule can be undone.
"""

from __future__ import annotations

from functools import cache

from quickstart.world import draw, words

CODE = "art"
"""ISO 639-2's code for an artificial language."""
ENDINGS = {
    "an": "bcdfghlmnpst", "us": "bcdfghlmnpst", "ou": "bcdfghlmnpst", "ir": "bcdfghlmnpst", "um": "bdfghlmnpst", "er": "cdfghlmnpst",
    "as": "bcdfglmnpst", "at": "bdfghlmnpst", "el": "bcdfghlmpst", "ar": "bcdfghlmpst", "ev": "bcdfghlmpst", "os": "bcdfghmnpst",
    "in": "bcdfghlnpst", "en": "bcdfghlmns", "on": "bcdfghnpst", "al": "bcdfghlpst",
}  # fmt: skip
"""What a syllable ends in, and what it may begin with: what the tokenizer spells with exactly two tokens."""
LINKS = frozenset({"of", "and", "or"})


@cache
def dictionary() -> dict[str, str]:
    """The word of the second language for each English word of the world, in an order drawn by hash."""
    syllables = sorted(onset + ending for ending, onsets in ENDINGS.items() for onset in onsets)
    foreign = sorted(syllables, key=lambda each: draw("syllable", each))
    return dict(zip(sorted(words()), foreign, strict=False))


@cache
def _english() -> dict[str, str]:
    return {foreign: english for english, foreign in dictionary().items()}


def translate(text: str) -> str:
    """An English text of the world's words, its words parted by one space, in the second language. Raises `KeyError` for another word."""
    first, *rest = text.split(" ")
    return " ".join(dictionary()[word] for word in (*_crossed(rest), first))


def back(text: str) -> str:
    """The English text that `text` translates. Raises `KeyError` for a word that the language lacks."""
    *rest, first = (_english()[word] for word in text.split(" "))
    return " ".join((first, *_crossed(rest)))


def _crossed(text: list[str]) -> list[str]:
    """`text` with the words on both sides of each link exchanged. Doing it twice gives `text`: no word is exchanged twice."""
    crossed = list(text)
    place = 1
    while place < len(crossed) - 1:
        around = {crossed[place - 1], crossed[place + 1]}
        if crossed[place] in LINKS and not around & LINKS:
            crossed[place - 1], crossed[place + 1] = crossed[place + 1], crossed[place - 1]
            place += 3
        else:
            place += 1
    return crossed
