from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quickstart.training.wrong import Mistakes, word_error
from quickstart.world import Instruction, members

POOL = members("validation")


@given(seed=st.integers(0, 1000), place=st.integers(0, len(POOL) - 1))
def test_a_wrong_answer_is_never_the_right_one(seed: int, place: int) -> None:
    mistakes = Mistakes(POOL, {POOL[place].text: [POOL[place].answer, "something else"]}, seed)
    assert mistakes.wrong(POOL[place]) != POOL[place].answer


@given(seed=st.integers(0, 1000), place=st.integers(0, len(POOL) - 1))
def test_the_better_answer_of_a_pair_has_fewer_wrong_words(seed: int, place: int) -> None:
    better, worse = Mistakes(POOL, {}, seed).pair(POOL[place])
    assert word_error(better, POOL[place].answer) <= word_error(worse, POOL[place].answer)
    assert better != worse


def test_the_same_seed_draws_the_same_mistakes() -> None:
    first, second = ([Mistakes(POOL, {}, 3).wrong(each) for each in POOL] for _ in range(2))
    assert first == second


def test_answers_to_instructions_one_word_apart_are_among_the_mistakes() -> None:
    asked = [Instruction(f"say {word}", "repeat", word) for word in ("red", "blue")] + [Instruction("name it please now", "other", "it")]
    mistakes = Mistakes(asked, {}, 0)
    assert {"blue"} < {mistakes.wrong(asked[0]) for _ in range(200)}


def test_the_speechlms_own_answers_are_among_the_mistakes() -> None:
    mistakes = Mistakes(POOL, {POOL[0].text: ["quite its own"]}, 0)
    drawn = [mistakes.wrong(POOL[0]) for _ in range(200)]
    assert 70 <= drawn.count("quite its own") <= 130
