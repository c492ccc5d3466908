"""Wrong answers that a SpeechLM could give, and how wrong each is: what the reward model learns to tell apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
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


def misheard(instruction: Instruction, others: Sequence[Instruction], draw: random.Random) -> str | None:
    """The right answer to another instruction, mostly of the same topic; None when it is right here as well."""
    found = draw.choice(others)
    return None if found.answer == instruction.answer else found.answer


def ranked_pair(
    instruction: Instruction, siblings: Sequence[Instruction], everyone: Sequence[Instruction], sampled: Sequence[str], draw: random.Random
) -> tuple[str, str]:
    """A better and a worse answer: mostly the right one against a wrong one, else two wrong ones of which one has fewer wrong words."""
    wrong = wrong_answer(instruction, siblings, everyone, sampled, draw)
    if draw.random() < 0.75:
        return instruction.answer, wrong
    other = wrong_answer(instruction, siblings, everyone, sampled, draw)
    first, second = sorted((wrong, other), key=lambda text: word_error(text, instruction.answer))
    if word_error(second, instruction.answer) - word_error(first, instruction.answer) < 0.2:
        return instruction.answer, second
    return first, second


def wrong_answer(
    instruction: Instruction, siblings: Sequence[Instruction], everyone: Sequence[Instruction], sampled: Sequence[str], draw: random.Random
) -> str:
    """One wrong answer: the SpeechLM's own where there is one, another instruction's, or an edited right one."""
    act = draw.random()
    own = [text for text in sampled if text != instruction.answer]
    if own and act < 0.4:
        return draw.choice(own)
    if act < 0.6:
        found = misheard(instruction, siblings if draw.random() < 0.8 else everyone, draw)
        if found is not None:
            return found
    return corrupted(instruction.answer, draw, draw.choice((1, 1, 1, 2, 3)))
