"""The micro-world: a grammar of spoken instructions with one right answer each, small enough to learn on two CPU cores.

Twelve topics over about 170 words make some 3,900 instructions. The enumeration is the same everywhere: nothing is
drawn at random, and what is left out of the larger topics is chosen by a hash of the instruction itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations, product
from typing import Literal

import xxhash

Split = Literal["learned", "train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("learned", "train", "validation", "test")
"""`learned`: what the half-way SpeechLM was taught; `train`: new instructions, for alignment; the others are held out of both."""

NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
DAYS = [
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
]  # fmt: skip
COLOURS = [
    "red", "blue", "green", "yellow", "black", "white", "brown", "pink",
]  # fmt: skip
FRUITS = [
    "apple", "pear", "banana", "cherry", "melon", "plum",
]  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "happy": "sad",
    "wet": "dry", "old": "new", "light": "dark", "open": "closed",
}  # fmt: skip
CAPITALS = {
    "peru": "lima", "france": "paris", "japan": "tokyo", "italy": "rome", "spain": "madrid", "egypt": "cairo",
    "kenya": "nairobi", "norway": "oslo", "cuba": "havana", "greece": "athens", "chile": "santiago", "china": "beijing",
}  # fmt: skip
SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa",
    "horse": "neigh", "pig": "oink", "lion": "roar", "bird": "tweet", "mouse": "squeak",
}  # fmt: skip
THINGS = {
    "grass": "green", "snow": "white", "the sky": "blue", "coal": "black", "chocolate": "brown",
    "blood": "red", "the sun": "yellow", "a flamingo": "pink",
}  # fmt: skip
CATEGORIES = {"fruit": FRUITS, "colour": COLOURS, "animal": list(SOUNDS), "day": DAYS, "number": NUMBERS[1:]}
SPOKEN = [*NUMBERS[:13], *COLOURS, *SOUNDS, *FRUITS, *DAYS[:3], *OPPOSITES, *OPPOSITES.values()]
"""Words that the instructions about words themselves (repeat, reverse, choose) are made of."""
LARGEST_TOPIC = 600
"""Longer topics are cut to this, so that none drowns the others."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of the world and its answers."""

    text: str
    topic: str
    answer: str
    """The right answer, in the form that the references have."""
    answers: tuple[str, ...] = ()
    """Further right answers."""

    @property
    def group_id(self) -> str:
        """Names the instruction: its topic and a hash of its text."""
        return f"{self.topic}-{xxhash.xxh64_hexdigest(self.text.encode())[:12]}"


@dataclass(frozen=True)
class Difficulty:
    """How much the world asks of a SpeechLM. The defaults are those of the quickstart: easy to learn, with room left."""

    train_groups: int = 1400
    """Most instructions to align on; fewer leave more to generalisation."""
    learned_groups: int = 1400
    """Instructions that the SpeechLM is taught before."""
    validation_groups: int = 128
    test_groups: int = 220
    voices_per_group: int = 4
    training_voices: int = 10
    """Voices of the training groups, the first ones of `quickstart.voices.TRAINING`: fewer leave more accents unheard."""
    noise_db: float | None = 35.0
    """Signal-to-noise ratio of the white noise under the speech; None for clean speech."""
    several_answers: bool = False
    """Count every right answer of a list as right, instead of the one that the references give."""
    seed: int = 0
    """Of the splits and the choice of voices."""


def draw(*parts: object) -> int:
    """A number from a hash of `parts`: the same on every machine."""
    return xxhash.xxh64_intdigest("/".join(map(str, parts)).encode())


@cache
def instructions() -> tuple[Instruction, ...]:
    """Every instruction of the world, in a fixed order, each text once."""
    found: dict[str, Instruction] = {}
    by_topic: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in enumerate_all():
        if instruction.text not in found:
            found[instruction.text] = instruction
            by_topic[instruction.topic].append(instruction)
    kept: list[Instruction] = []
    for members in by_topic.values():
        chosen = set(sorted(members, key=lambda member: draw("kept", member.text))[:LARGEST_TOPIC])
        kept.extend(member for member in members if member in chosen)
    return tuple(kept)


def members(split: Split, difficulty: Difficulty | None = None) -> list[Instruction]:
    """The instructions of a split in an order drawn by hash; without `difficulty` the four splits are the whole world. None shares one.

    Half of the world is `learned`. Of the rest `test` and `validation` take as many as `difficulty` asks for, `train` what remains, up to
    its `train_groups`.
    """
    asked = difficulty or Difficulty(train_groups=len(instructions()), learned_groups=len(instructions()))
    seed = asked.seed
    by_place: dict[Split, list[Instruction]] = {name: [] for name in SPLITS}
    for each in sorted(instructions(), key=lambda each: draw("order", seed, each.text)):
        place = draw("split", seed, each.text) % 100
        by_place["test" if place < 15 else "validation" if place < 25 else "train" if place < 50 else "learned"].append(each)
    sizes = {"validation": asked.validation_groups, "test": asked.test_groups, "learned": asked.learned_groups}
    if split != "train":
        return by_place[split][: sizes[split]]
    rest = [*by_place["train"], *by_place["validation"][asked.validation_groups :], *by_place["test"][asked.test_groups :]]
    return sorted(rest, key=lambda each: draw("order", seed, each.text))[: asked.train_groups]


def words() -> set[str]:
    """Every word of the world's instructions and answers."""
    return {word for each in instructions() for word in f"{each.text} {each.answer}".split()}


def topics() -> list[str]:
    """The kinds of instruction, in the order of their enumeration."""
    return list(dict.fromkeys(each.topic for each in instructions()))


# --- one generator a topic ----------------------------------------------------------------------------------


def enumerate_all() -> Iterator[Instruction]:
    """The topics one after another, whole; a text may come twice."""
    for topic in (
        _arithmetic, _counting, _opposites, _capitals, _sounds, _colours, _lists, _repeat, _reverse, _choose, _compare, _order,
    ):  # fmt: skip
        name = topic.__name__.removeprefix("_")
        for text, answer, *others in topic():
            yield Instruction(text, name, answer, tuple(others))


def _arithmetic() -> Iterator[tuple[str, ...]]:
    for a, b in product(range(11), repeat=2):
        total = f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]}"
        yield f"what is {NUMBERS[a]} plus {NUMBERS[b]}", total
        yield f"add {NUMBERS[a]} and {NUMBERS[b]}", total
        if a >= b:
            rest = f"{NUMBERS[a]} minus {NUMBERS[b]} is {NUMBERS[a - b]}"
            yield f"what is {NUMBERS[a]} minus {NUMBERS[b]}", rest
            yield f"take {NUMBERS[b]} from {NUMBERS[a]}", rest


def _counting() -> Iterator[tuple[str, ...]]:
    for a, span in product(range(16), range(2, 6)):
        if a + span < len(NUMBERS):
            run = NUMBERS[a : a + span + 1]
            yield f"count from {run[0]} to {run[-1]}", " ".join(run)
            yield f"say the numbers from {run[0]} to {run[-1]}", " ".join(run)
            yield f"count down from {run[-1]} to {run[0]}", " ".join(reversed(run))


def _both_ways(table: dict[str, str]) -> dict[str, str]:
    return table | {value: key for key, value in table.items()}


def _opposites() -> Iterator[tuple[str, ...]]:
    table = _both_ways(OPPOSITES)
    for word, opposite in table.items():
        answer = f"the opposite of {word} is {opposite}"
        yield f"what is the opposite of {word}", answer
        yield f"name the opposite of {word}", answer
        yield f"say the opposite of {word}", answer
    for first, second in permutations(table, 2):
        if table[first] != second:
            yield f"name the opposites of {first} and {second}", f"{table[first]} and {table[second]}"


def _capitals() -> Iterator[tuple[str, ...]]:
    for country, capital in CAPITALS.items():
        answer = f"the capital of {country} is {capital}"
        yield f"what is the capital of {country}", answer
        yield f"name the capital of {country}", answer
        yield f"say the capital of {country}", answer
        yield f"which country has the capital {capital}", answer
    for first, second in permutations(CAPITALS, 2):
        yield f"name the capitals of {first} and {second}", f"{CAPITALS[first]} and {CAPITALS[second]}"


def _sounds() -> Iterator[tuple[str, ...]]:
    for animal, sound in SOUNDS.items():
        answer = f"the {animal} says {sound}"
        yield f"what does the {animal} say", answer
        yield f"name the sound of the {animal}", answer
        yield f"which animal says {sound}", answer
    for first, second in permutations(SOUNDS, 2):
        yield f"what do the {first} and the {second} say", f"{SOUNDS[first]} and {SOUNDS[second]}"


def _colours() -> Iterator[tuple[str, ...]]:
    for thing, colour in THINGS.items():
        answer = f"{thing} is {colour}"
        yield f"what colour is {thing}", answer
        yield f"name the colour of {thing}", answer
        yield f"say the colour of {thing}", answer
    for first, second in permutations(THINGS, 2):
        yield f"name the colours of {first} and {second}", f"{THINGS[first]} and {THINGS[second]}"


def _some(category: str, count: int) -> str:
    return f"{NUMBERS[count]} {category}{'s' if count > 1 else ''}"


def _choices(category: str, count: int) -> list[str]:
    return [" ".join(choice) for choice in permutations(CATEGORIES[category][:4], count)]


def _lists() -> Iterator[tuple[str, ...]]:
    for category, count in product(CATEGORIES, (1, 2, 3)):
        yield f"name {_some(category, count)}", *_choices(category, count)
    for (first, second), many, more in product(permutations(CATEGORIES, 2), (1, 2, 3), (1, 2, 3)):
        if many + more <= 4:
            right = [f"{a} and {b}" for a, b in product(_choices(first, many), _choices(second, more))]
            yield f"name {_some(first, many)} and {_some(second, more)}", *right


def _spoken(count: int, purpose: str, limit: int) -> Iterable[tuple[str, ...]]:
    """`limit` different tuples of `count` different words each, drawn by hash."""
    seen: dict[tuple[str, ...], None] = {}
    turn = 0
    while len(seen) < limit:
        chosen = tuple(SPOKEN[draw(purpose, turn, place) % len(SPOKEN)] for place in range(count))
        turn += 1
        if len(set(chosen)) == count:
            seen[chosen] = None
    return seen


def _repeat() -> Iterator[tuple[str, ...]]:
    for count, limit in ((1, 40), (2, 280), (3, 280)):
        for chosen in _spoken(count, f"repeat {count}", limit):
            yield f"repeat after me {' '.join(chosen)}", " ".join(chosen)


def _reverse() -> Iterator[tuple[str, ...]]:
    for chosen in _spoken(2, "reverse", 400):
        yield f"say {' '.join(chosen)} backwards", " ".join(reversed(chosen))


def _choose() -> Iterator[tuple[str, ...]]:
    for place, name in ((0, "first"), (2, "last")):
        for chosen in _spoken(3, name, 200):
            yield f"say the {name} of {' '.join(chosen)}", f"{chosen[place]} is the {name}"


def _compare() -> Iterator[tuple[str, ...]]:
    for a, b in permutations(range(21), 2):
        yield f"which is more {NUMBERS[a]} or {NUMBERS[b]}", f"{NUMBERS[max(a, b)]} is more"
        yield f"which is less {NUMBERS[a]} or {NUMBERS[b]}", f"{NUMBERS[min(a, b)]} is less"


def _order() -> Iterator[tuple[str, ...]]:
    for row in (NUMBERS, DAYS):
        for one, following in pairwise(row):
            for form in ("what comes {} {}", "name what comes {} {}", "say what comes {} {}"):
                yield form.format("after", one), f"{following} comes after {one}"
                yield form.format("before", following), f"{one} comes before {following}"
