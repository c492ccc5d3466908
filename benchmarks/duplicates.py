"""What the filter of a synthesis costs on one core: rules, exact duplicates, near duplicates, and starting again.

    python -m benchmarks.duplicates [--count N] [--json FILE]

Instructions are made of a vocabulary of 8,000 words, 6 to 25 each, most behind one of four common beginnings; a tenth repeats another with
one word changed. The last case is one sentence with two words changing, whose instructions all share buckets. The peers, where they are
installed, are datasketch (128 permutations over the same runs of five characters, one text at a time, on a fifth of the instructions) and
rensa's streaming deduplicator with the same bands; neither compares candidates in full.
"""

from __future__ import annotations

import importlib
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from actors.synthesis.filtering import Filtering
from actors.synthesis.filters.duplicates import Duplicates
from actors.synthesis.filters.minhash import BANDS, ROWS, runs
from actors.synthesis.filters.normal import normal
from actors.synthesis.records import Draft
from benchmarks.command import command
from benchmarks.rows import row
from configs.synthesis import SynthesisConfig

GOAL = 5000.0
"""Instructions a second and core."""
NEAR = 0.8
BLOCK = 256
BEGINNINGS = ("can you tell me", "what is the difference between", "please write a short story about", "how do i")


def vocabulary(drawn: random.Random) -> list[str]:
    """8,000 words that can be spoken."""
    return ["".join(drawn.choice("bcdfglmnprst") + drawn.choice("aeiou") for _ in range(drawn.randint(1, 4))) for _ in range(8000)]


def mixed(count: int) -> list[str]:
    """Instructions with a tenth of near duplicates."""
    drawn = random.Random(0)
    words = vocabulary(drawn)
    weights = [1 / (place + 3) for place in range(len(words))]
    made: list[str] = []
    for _ in range(count):
        if made and drawn.random() < 0.1:
            changed = drawn.choice(made).split()
            changed[drawn.randrange(len(changed))] = drawn.choice(words)
            made.append(" ".join(changed))
        else:
            said = drawn.choices(words, weights, k=drawn.randint(6, 25))
            made.append(" ".join([drawn.choice(("", *BEGINNINGS)), *said]).strip())
    return made


def alike(count: int) -> list[str]:
    """One sentence about many things."""
    drawn = random.Random(1)
    words = [word for word in vocabulary(drawn) if len(word) > 3]
    return [f"what are the main differences between {drawn.choice(words)} and {drawn.choice(words)}" for _ in range(count)]


def recipe(**options: Any) -> SynthesisConfig:
    """One whose filter has these options."""
    return SynthesisConfig.model_validate({"teacher": {"model": "none"}, "filter": options})


def filtered(texts: Sequence[str], **options: Any) -> tuple[float, list[list[Draft]]]:
    """Instructions a second, and the blocks that came back."""
    blocks = [
        [
            Draft(id=f"i{place:08d}", instruction=text, reference="Of course.")
            for place, text in enumerate(texts[start : start + BLOCK], start)
        ]
        for start in range(0, len(texts), BLOCK)
    ]
    stage = Filtering(recipe(**options))
    started = time.perf_counter()
    found = [list(stage.run(number, block)) for number, block in enumerate(blocks)]
    return len(texts) / (time.perf_counter() - started), found


def recalled(blocks: Sequence[Sequence[Draft]]) -> float:
    """Instructions a second when the state is built again from committed blocks."""
    stage = Filtering(recipe(near_duplicates=NEAR))
    started = time.perf_counter()
    for block in blocks:
        stage.recall(block)
    return sum(map(len, blocks)) / (time.perf_counter() - started)


def ours(texts: Sequence[str]) -> float:
    """Instructions a second of the near duplicates' index alone."""
    duplicates = Duplicates(NEAR)
    started = time.perf_counter()
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        duplicates.find([f"i{place:08d}" for place in range(start, start + len(block))], block)
    return len(texts) / (time.perf_counter() - started)


def bytes_each(texts: Sequence[str]) -> float:
    """What the index remembers of an instruction, in bytes."""
    tracemalloc.start()
    duplicates = Duplicates(NEAR)
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        duplicates.find([f"i{place:08d}" for place in range(start, start + len(block))], block)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(duplicates)


def datasketch(texts: Sequence[str]) -> float:
    """Instructions a second with datasketch."""
    library: Any = importlib.import_module("datasketch")
    index = library.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    started = time.perf_counter()
    for place, text in enumerate(texts):
        minhash = library.MinHash(BANDS * ROWS)
        minhash.update_batch([run.encode() for run in runs(normal(text))])
        if not index.query(minhash):
            index.insert(str(place), minhash)
    return len(texts) / (time.perf_counter() - started)


def rensa(texts: Sequence[str]) -> float:
    """Instructions a second with rensa."""
    library: Any = importlib.import_module("rensa")
    index = library.RMinHashDeduplicator(NEAR, BANDS * ROWS, True, BANDS, 42)
    started = time.perf_counter()
    for start in range(0, len(texts), BLOCK):
        index.add_pairs((str(start + place), list(runs(normal(text)))) for place, text in enumerate(texts[start : start + BLOCK]))
    return len(texts) / (time.perf_counter() - started)


def measure(count: int = 60_000) -> list[dict[str, Any]]:
    """Every row; peers that are not installed are left out."""
    texts, family = mixed(count), alike(count)
    bare, _ = filtered(texts, near_duplicates=None)
    full, blocks = filtered(texts, near_duplicates=NEAR)
    rows = [
        row("rules and exact duplicates", "instructions/s", bare, "goal", GOAL, 1.0),
        row("rules, exact and near duplicates", "instructions/s", full, "goal", GOAL, 1.0),
        row("starting again: recall", "instructions/s", recalled(blocks), "filtering", full, None),
    ]
    index, worst = ours(texts), ours(family)
    rows.append(row("near duplicates: one sentence about many things", "instructions/s", worst, "goal", GOAL, 1.0))
    rows.append(row("near duplicates: memory", "bytes/instruction", bytes_each(texts), "kilobyte", 1000.0, None))
    peers: list[tuple[str, Callable[[Sequence[str]], float], int]] = [("datasketch", datasketch, 5), ("rensa", rensa, 1)]
    for name, peer, part in peers:
        try:
            rows.append(row("near duplicates", "instructions/s", index, name, peer(texts[: count // part]), None))
            rows.append(row("one sentence about many things", "instructions/s", worst, name, peer(family[: count // part]), None))
        except ImportError:
            continue
    return rows


if __name__ == "__main__":
    command("duplicates", __doc__, measure, {"count": {"type": int, "default": 60_000, "help": "instructions a case"}})
