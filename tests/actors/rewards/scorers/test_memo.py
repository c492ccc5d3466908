import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.scorers.memo import Memo


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
    memo, _ = asked(max_bytes)
    for text in texts:
        assert memo(text) == 2 * text
        assert memo.bytes <= max_bytes


def test_what_is_larger_than_all_that_may_be_kept_is_answered_and_not_kept():
    memo, calls = asked(1000)
    assert memo("a") == "aa"
    assert memo("x" * 5000) == "x" * 10_000
    assert memo("a") == "aa"
    assert calls == ["a", "x" * 5000]


def test_the_oldest_goes_first_and_a_use_makes_young():
    memo, calls = asked(3 * 60)  # an ASCII letter takes some 50 bytes, and its answer two
    for text in "abcacb":
        memo(text)
    memo("d")
    calls.clear()
    memo("c")
    assert calls == []
    memo("a")
    assert calls == ["a"]


def test_errors_are_not_kept():
    memo, calls = asked(1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot double"):
            memo("bad")
    assert calls == ["bad", "bad"]
