import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.scorers import qa
from actors.rewards.scorers.memo import ENTRY_BYTES, Memo
from actors.rewards.scorers.sentence_bleu import SentenceBleu


def asked(max_bytes: int) -> tuple[Memo[str], list[str]]:
    calls: list[str] = []

    def double(text: str) -> str:
        calls.append(text)
        if text == "bad":
            raise ValueError("cannot double this")
        return 2 * text

    return Memo(double, max_bytes, len), calls


def test_what_was_asked_before_is_not_asked_again():
    memo, calls = asked(1 << 20)
    assert (memo("a"), memo("b"), memo("a")) == ("aa", "bb", "aa")
    assert calls == ["a", "b"]


@given(st.lists(st.text(max_size=300), max_size=40), st.integers(0, 2000))
def test_the_bound_holds_whatever_is_asked(texts: list[str], max_bytes: int):
    memo, _ = asked(10 * max_bytes)
    for text in texts:
        assert memo(text) == 2 * text
        assert memo.bytes <= 10 * max_bytes


def test_what_is_larger_than_all_that_may_be_kept_is_answered_and_not_kept():
    memo, calls = asked(1000)
    assert memo("a") == "aa"
    assert memo("x" * 5000) == "x" * 10_000
    assert memo("a") == "aa"
    assert calls == ["a", "x" * 5000]


def test_the_oldest_goes_first_and_a_use_makes_young():
    memo, calls = asked(3 * (ENTRY_BYTES + 60))  # an ASCII letter takes some 50 bytes, and its answer two
    for text in "abcacb":
        memo(text)
    memo("d")
    calls.clear()
    memo("c")
    assert calls == []
    memo("a")
    assert calls == ["a"]


@pytest.mark.parametrize("words", [1, 4, 80])
@pytest.mark.parametrize("scorer", ["qa", "bleu"])
def test_what_is_counted_is_what_is_taken(scorer: str, words: int):
    texts = [" ".join(f"word{number}x{place}" for place in range(words)) for number in range(4000 // words)]
    memo: Memo[Any] = Memo(qa.split, 1 << 30, qa.words._size_bytes) if scorer == "qa" else SentenceBleu("none")._counted
    rest = [False] if scorer == "qa" else []
    gc.collect()
    tracemalloc.start()
    try:
        for text in texts:
            memo(text, *rest)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.5 * memo.bytes < taken < 1.4 * memo.bytes


def test_errors_are_not_kept():
    memo, calls = asked(1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot double"):
            memo("bad")
    assert calls == ["bad", "bad"]
