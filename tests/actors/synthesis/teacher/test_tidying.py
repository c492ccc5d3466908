"""What a model writes as a user, without what does not belong to an instruction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.teacher.tidying import is_repeating, tidied, without_thoughts

PIECES = [
    "# ",
    "1. ",
    "Q2: ",
    "Question:",
    "**Task**:",
    "- ",
    "\n",
    '"',
    "Why is it so?",
    "Answer:",
    "**",
    "The answer is 4",
    "> ",
    "(3) ",
    " ",
]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  What is red?\n", "What is red?"),
        ("## What is red?", "What is red?"),
        ("#What is red?", "What is red?"),
        ("1. What is red?", "What is red?"),
        ("(2) What is red?", "What is red?"),
        ("Question: What is red?", "What is red?"),
        ("**Question 3:** What is red?", "What is red?"),
        ("### Instruction:\nName three fruits.", "Name three fruits."),
        ("Q1: What is red?", "What is red?"),
        ("1) Task: Name three fruits.", "Name three fruits."),
        ("* Name three fruits.", "Name three fruits."),
        ('"What is red?"', "What is red?"),
        ("**What is red?**", "What is red?"),
        ("What is red?\n\nAnswer: A colour.", "What is red?"),
        ("What is 2 + 2?\nThe answer is 4.", "What is 2 + 2?"),
        ("Plan a day.\n## Step 1\nGet up.", "Plan a day."),
        ("Plan a day.\n**Solution:** Get up.", "Plan a day."),
        ("Hello!\nAssistant: Hello.", "Hello!"),
        ("Answer: 4", ""),
        ("", ""),
        # none of these is a mark
        ("2.5 apples cost how much?", "2.5 apples cost how much?"),
        ("2024 was a leap year, was 2023?", "2024 was a leap year, was 2023?"),
        ("What is the answer to life?", "What is the answer to life?"),
        ("Tell my assistant: be on time.", "Tell my assistant: be on time."),
        ("Answer this: why is it so?", "Answer this: why is it so?"),
        ('"Yes" and "no": which is shorter?', '"Yes" and "no": which is shorter?'),
        ("Question everything.", "Question everything."),
        ("List:\n1. red\n2. green\nWhich is warm?", "List:\n1. red\n2. green\nWhich is warm?"),
    ],
)
def test_what_is_left(raw: str, text: str) -> None:
    assert tidied(raw) == text


@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_tidying_again_changes_nothing(raw: str) -> None:
    text = tidied(raw)
    assert tidied(text) == text
    assert len(text) <= len(raw)


def test_words_that_go_round_in_circles() -> None:
    assert is_repeating("and so on " * 8)
    assert is_repeating("Well. " + "the cat sat on the mat, " * 4)
    assert is_repeating("好的" * 30)
    assert not is_repeating("-" * 200 + " a table " + "| " * 100)
    assert not is_repeating("ha ha ha ha, very funny")
    assert not is_repeating("The cat sat on the mat, the dog sat on the log, and the hen sat on the pen.")


@given(st.text(alphabet="abcdefgh ", min_size=1, max_size=30).filter(lambda unit: any(map(str.isalnum, unit))), st.integers(4, 9))
def test_any_words_repeated_long_enough_are_seen(unit: str, times: int) -> None:
    assert is_repeating(unit * times) or len(unit * times) < 64 + 48


def test_thoughts_are_no_answer() -> None:
    assert without_thoughts("<think>\nIs it four?\n</think>\n\nFour.") == "Four."
    assert without_thoughts("Is it four?</think>Four.") == "Four."
    assert without_thoughts(" Four. ") == "Four."
    assert without_thoughts("<think>four, for ever") == "<think>four, for ever"
