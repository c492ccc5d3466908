from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.filters.buckets import EMPTY, Buckets
from actors.synthesis.filters.duplicates import Duplicates, Earlier
from actors.synthesis.filters.minhash import BANDS, bands, overlap, runs
from actors.synthesis.filters.normal import normal

RANDOM = random.Random(3)
VOCABULARY = ["".join(RANDOM.choice("bcdfgklmnprst") + RANDOM.choice("aeiou") for _ in range(RANDOM.randint(2, 4))) for _ in range(500)]


def sentence(words: int) -> list[str]:
    return RANDOM.choices(VOCABULARY, k=words)


def found(duplicates: Duplicates, texts: list[str], blocks: int = 10_000) -> list[Earlier | None]:
    names = [f"t{place}" for place in range(len(texts))]
    return [
        each
        for start in range(0, len(texts), blocks)
        for each in duplicates.find(names[start : start + blocks], texts[start : start + blocks])
    ]


@pytest.mark.parametrize("near", [None, 0.8])
def test_the_same_to_a_listener(near: float | None) -> None:
    texts = [
        "What's the capital of Peru?",
        "whats the  CAPITAL of peru",
        "What’s the capital of Ｐｅｒｕ ?!",
        "What is the capital of Peru?",
    ]
    assert found(Duplicates(near), texts) == [None, Earlier("t0", same=True), Earlier("t0", same=True), None]


def test_one_word_changed_in_a_long_text_is_found_and_others_are_not() -> None:
    texts = [sentence(40) for _ in range(300)]
    changed = [list(words) for words in texts]
    for place, words in enumerate(changed):
        words[place % 40] = "zebra"
    duplicates = Duplicates(0.8)
    assert found(duplicates, [" ".join(words) for words in texts]) == [None] * 300
    assert found(duplicates, [" ".join(words) for words in changed]) == [Earlier(f"t{place}", same=False) for place in range(300)]
    assert len(duplicates) == 300


def test_a_band_remembers_the_first_text_within_a_block_as_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two three four", "why is the sky so very blue", "why is the sky so very blue now"]
    keys = dict(zip(texts, ([1, 2], [1, 3], [1, 4]), strict=True))
    monkeypatch.setattr("actors.synthesis.filters.duplicates.bands", lambda forms: np.array([keys[form] for form in forms], np.uint32))
    found = []
    for cuts in ([0, 3], [0, 1, 3], [0, 1, 2, 3]):
        index = Duplicates(0.5)
        found.append([each for start, end in pairwise(cuts) for each in index.find(texts[start:end], texts[start:end])])
    assert found == [[None, None, None]] * 3


def test_short_questions_about_different_things_are_no_duplicates() -> None:
    texts = [
        "what is the capital of peru",
        "what is the capital of cuba",
        "tell me a story about a dragon",
        "tell me a story about a wizard",
    ]
    assert found(Duplicates(0.8), texts) == [None] * 4


WORDS = st.sampled_from([*VOCABULARY[:6], "?", ""])
TEXTS = st.lists(st.lists(WORDS, max_size=30).map(" ".join), max_size=30)


@given(TEXTS, st.integers(1, 7), st.sampled_from([None, 0.5, 0.8, 1.0]))
def test_decisions_do_not_depend_on_the_blocks_nor_on_where_a_life_ends(texts: list[str], size: int, near: float | None) -> None:
    names = [f"t{place}" for place in range(len(texts))]
    whole = found(Duplicates(near), texts)
    assert found(Duplicates(near), texts, size) == whole
    for cut in range(0, len(texts), size):
        recalled = Duplicates(near)
        for start in range(0, cut, size):  # as committed: block by block, what was let in
            kept = [place for place in range(start, min(start + size, cut)) if whole[place] is None]
            recalled.enter([names[place] for place in kept], [texts[place] for place in kept])
        assert recalled.find(names[cut:], texts[cut:]) == whole[cut:]


@given(TEXTS, st.sampled_from([0.5, 0.8]))
def test_what_is_said_to_be_near_is_near(texts: list[str], near: float) -> None:
    for text, earlier in zip(texts, found(Duplicates(near), texts), strict=True):
        if earlier is not None:
            other = texts[int(earlier.id[1:])]
            assert (normal(text) == normal(other)) == earlier.same
            assert overlap(runs(normal(text)), runs(normal(other))) >= near


def test_hashes_are_the_same_on_every_machine() -> None:
    hashes = bands(["what is the capital of peru", "", "你好"])
    assert hashes.shape == (3, BANDS)
    assert hashes[:, 0].tolist() == [3981810783, 4033852739, 323752199]


@given(st.lists(st.lists(st.integers(0, 50), max_size=60), max_size=12))
def test_buckets_remember_who_came_first(blocks: list[list[int]]) -> None:
    # Multiples of a power of two want the same few places.
    buckets, model = Buckets(), dict[int, int]()
    count = 0
    for block in blocks:
        keys = np.array([key * 2**22 for key in block], dtype=np.uint32)
        assert buckets.owners(keys).tolist() == [model.get(key, EMPTY) for key in block]
        buckets.claim(keys, np.arange(count, count + len(block), dtype=np.uint32))
        for key in block:
            model.setdefault(key, count)
            count += 1
    assert len(buckets) == len(model)


def test_buckets_grow() -> None:
    buckets = Buckets()
    keys = np.random.default_rng(0).permutation(np.arange(100_000, dtype=np.uint32)) * np.uint32(2654435761)
    for start in range(0, len(keys), 5000):
        buckets.claim(keys[start : start + 5000], np.arange(start, start + 5000, dtype=np.uint32))
    assert buckets.owners(keys).tolist() == list(range(len(keys)))
    assert len(buckets) == len(keys)
    assert buckets.size_bytes <= 32 * len(keys)
