"""The grammar behind the micro-world: which texts are instructions, also beyond those that the world enumerates.

The instructions about words themselves (repeat, reverse, choose) may be made of any different words of `quickstart.world.SPOKEN`; the
world holds a few hundred of some 200,000. The other topics have the forms that the world enumerates, including what it cuts away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from quickstart.world import SPOKEN, Instruction, draw, enumerate_all, members

OPEN_FORMS = (
    ("repeat", re.compile("repeat after me (.+)"), (1, 2, 3)),
    ("reverse", re.compile("say (.+) backwards"), (2,)),
    ("choose", re.compile("say the (first|last) of (.+)"), (3,)),
)
"""Topic, form, and how many words it may be about."""


@cache
def _enumerated() -> dict[str, Instruction]:
    return {each.text: each for each in enumerate_all()}


def understand(text: str) -> Instruction | None:
    """The instruction that `text` is, with its right answer; None when the grammar has no such text."""
    if text in _enumerated():
        return _enumerated()[text]
    for topic, form, counts in OPEN_FORMS:
        found = form.fullmatch(text)
        if found is not None:
            about = found[found.lastindex or 0].split(" ")
            if len(about) in counts and len(set(about)) == len(about) and set(about) <= set(SPOKEN):
                return Instruction(text, topic, _open_answer(topic, found[1], about))
    return None


def _open_answer(topic: str, chosen: str, about: list[str]) -> str:
    if topic == "choose":
        return f"{about[0] if chosen == 'first' else about[-1]} is the {chosen}"
    return " ".join(about if topic == "repeat" else reversed(about))


def held_out() -> set[str]:
    """Instructions of the validation and test splits: what no training may see."""
    return {each.text for split in ("validation", "test") for each in members(split)}


def beyond(count: int, purpose: str) -> Iterator[Instruction]:
    """`count` instructions of the open forms that the world lacks, drawn by a hash of `purpose`."""
    seen: set[str] = set()
    turn = 0
    while len(seen) < count:
        about = dict.fromkeys(SPOKEN[draw(purpose, turn, place) % len(SPOKEN)] for place in range(3))
        turn += 1
        for text in _forms(list(about), draw(purpose, turn, "form")):
            found = understand(text)
            if found is not None and text not in seen and text not in _enumerated():
                seen.add(text)
                yield found


def _forms(about: list[str], drawn: int) -> Iterator[str]:
    if drawn % 4 == 0:
        yield f"repeat after me {' '.join(about)}"
    elif drawn % 4 == 1:
        yield f"say {' '.join(about[:2])} backwards"
    else:
        yield f"say the {('first', 'last')[drawn % 2]} of {' '.join(about)}"
