"""Wrong answers that a SpeechLM could give, and how wrong each is: what the reward model learns to tell apart."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from quickstart.world import CAPITALS, CATEGORIES, OPPOSITES, SOUNDS, Instruction

KINDS: list[list[str]] = [
    *CATEGORIES.values(),
    list(CAPITALS),
    list(CAPITALS.values()),
    list(SOUNDS.values()),
    [*OPPOSITES, *OPPOSITES.values()],
    ["plus", "minus"],
    ["more", "less"],
    ["after", "before"],
    ["first", "last"],
]
"""Words that stand in for each other in a plausible mistake."""
ALL_WORDS = sorted({word for kind in KINDS for word in kind})


def word_error(answer: str, right: str) -> float:
    """Share of the words that differ, 0 to 1: one minus the matching blocks' share of both texts."""
    return 1.0 - SequenceMatcher(a=answer.split(), b=right.split(), autojunk=False).ratio()


def corrupted(answer: str, draw: random.Random, edits: int) -> str:
    """`answer` with `edits` words exchanged, left out, doubled, put in or swapped; never the answer itself."""
    words = answer.split()
    for _ in range(edits):
        _edit(words, draw)
    if words == answer.split():
        return corrupted(answer, draw, edits)
    return " ".join(words)


def _edit(words: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(words)) if words else 0
    act = draw.random()
    if not words or act < 0.1:
        words.insert(place, draw.choice(ALL_WORDS))
    elif act < 0.65:
        words[place] = _stand_in(words[place], draw)
    elif act < 0.8:
        del words[place]
    elif act < 0.87:
        words.insert(place, words[place])
    elif len(words) > 1:
        other = draw.randrange(len(words))
        words[place], words[other] = words[other], words[place]


def _stand_in(word: str, draw: random.Random) -> str:
    kinds = [kind for kind in KINDS if word in kind]
    pool = draw.choice(kinds) if kinds and draw.random() < 0.8 else ALL_WORDS
    return draw.choice([each for each in pool if each != word])


class Mistakes:
    """Draws wrong answers to the instructions of a pool."""

    def __init__(self, pool: Sequence[Instruction], sampled: Mapping[str, Sequence[str]], seed: int) -> None:
        """`sampled` holds the SpeechLM's own answers by instruction text, right ones among them."""
        self._pool, self._sampled, self._draw = pool, sampled, random.Random(seed)
        self._by_topic: dict[str, list[Instruction]] = defaultdict(list)
        self._by_gap: dict[tuple[str, ...], list[Instruction]] = defaultdict(list)
        for each in pool:
            self._by_topic[each.topic].append(each)
            for gap in _gaps(each.text):
                self._by_gap[gap].append(each)

    def pair(self, instruction: Instruction) -> tuple[str, str]:
        """A better and a worse answer: mostly the right one against a wrong one, else two wrong ones of which one has fewer wrong words."""
        wrong = self.wrong(instruction)
        if self._draw.random() < 0.85:
            return instruction.answer, wrong
        first, second = sorted((wrong, self.wrong(instruction)), key=lambda text: word_error(text, instruction.answer))
        if word_error(second, instruction.answer) - word_error(first, instruction.answer) < 0.2:
            return instruction.answer, second
        return first, second

    def wrong(self, instruction: Instruction) -> str:
        """One wrong answer: the SpeechLM's own where there is one, another instruction's, or an edited right one."""
        act = self._draw.random()
        own = [text for text in self._sampled.get(instruction.text, ()) if text != instruction.answer]
        if own and act < 0.5:
            return self._draw.choice(own)
        if act < 0.7 and (found := self._misheard(instruction)) is not None:
            return found
        return corrupted(instruction.answer, self._draw, self._draw.choice((1, 1, 1, 2, 3)))

    def _misheard(self, instruction: Instruction) -> str | None:
        """The right answer to another instruction: one word apart, of the same topic, or any; None when it is right here as well."""
        act = self._draw.random()
        others: Sequence[Instruction] = self._pool
        if act < 0.6:
            others = [each for gap in _gaps(instruction.text) for each in self._by_gap[gap]]
        elif act < 0.9:
            others = self._by_topic[instruction.topic]
        found = self._draw.choice(others)
        return None if found.answer == instruction.answer else found.answer


def _gaps(text: str) -> Iterator[tuple[str, ...]]:
    """The words of `text` with one of them left open: two texts that share one differ in a single word."""
    words = text.split()
    for place in range(len(words)):
        yield (*words[:place], "", *words[place + 1 :])
