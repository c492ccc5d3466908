from __future__ import annotations

import pytest
from sacrebleu.metrics import BLEU

from protocol.measures import GroupMeasures, summarise

ANSWERS = [
    ("the capital of peru is lima", "the capital of peru is lima"),
    ("the answer is seven now", "the answer is seven"),
    ("red and blue make green", "red and blue make purple"),
    ("a", "a house on the hill"),
]


def measured(answer: str, reference: str) -> GroupMeasures:
    statistics = BLEU(effective_order=False)._extract_corpus_statistics([answer], [[reference]])[0]
    return GroupMeasures(1, int(answer == reference), [int(count) for count in statistics], consistency=None, agreement=None)


def test_bleu_of_added_counts_is_the_corpus_bleu_of_sacrebleu() -> None:
    expected = BLEU().corpus_score([answer for answer, _ in ANSWERS], [[reference for _, reference in ANSWERS]]).score
    assert summarise(measured(*pair) for pair in ANSWERS)["bleu"] == pytest.approx(expected)
    assert 10 < expected < 90


def test_bleu_without_a_match_is_zero() -> None:
    assert summarise([measured("x", "y z")])["bleu"] == 0.0


def test_answers_of_less_than_four_words_have_a_bleu_too() -> None:
    assert summarise([measured("five is more", "five is more"), measured("dog duck", "dog duck")])["bleu"] == pytest.approx(100.0)
    assert 0 < summarise([measured("five is more", "five is more"), measured("dog cat", "dog duck")])["bleu"] < 100


def test_means_weigh_answers_and_groups() -> None:
    groups = [
        GroupMeasures(4, 3, [0] * 10, consistency=0.5, agreement=1.0, reward_sum=2.0, scored=4, truncated=1),
        GroupMeasures(1, 0, [0] * 10, consistency=None, agreement=None, reward_sum=-1.0, scored=1),
        GroupMeasures(3, 0, [0] * 10, consistency=0.9, agreement=0.0),
    ]
    figures = summarise(groups)
    assert figures["groups"] == 3
    assert figures["answers"] == 8
    assert figures["accuracy"] == pytest.approx(3 / 8)
    assert figures["truncated"] == pytest.approx(1 / 8)
    assert figures["consistency"] == pytest.approx(0.7)
    assert figures["agreement"] == pytest.approx(0.5)
    assert figures["reward"] == pytest.approx(0.2)


def test_what_was_not_measured_is_left_out() -> None:
    assert summarise([]) == {"groups": 0.0, "answers": 0.0}
    assert "reward" not in summarise([measured("a b c d", "a b c d")])
