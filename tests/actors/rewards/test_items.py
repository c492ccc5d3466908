import math

from actors.rewards.items import RewardScore, checked, unscored


def test_a_finite_score_passes():
    score = RewardScore("a", 0.5, {"x": 1.0})
    assert checked(score) is score


def test_what_is_not_finite_becomes_an_error():
    for bad in (math.nan, math.inf, -math.inf):
        assert checked(RewardScore("a", bad)).score is None
        assert (checked(RewardScore("a", bad)).error or "").startswith("non_finite")
        assert (checked(RewardScore("a", 1.0, {"x": bad})).error or "").startswith("non_finite")


def test_an_error_never_keeps_a_score():
    assert checked(RewardScore("a", 0.0, error="broken: x")) == RewardScore("a", None, error="broken: x")


def test_an_error_has_a_word():
    assert RewardScore("a", 0.5).kind is None
    assert RewardScore("a", error="no_reference: none given").kind == "no_reference"
    assert RewardScore("a", error="Out of Memory").kind == "other"


def test_neither_score_nor_error_is_an_error():
    assert (checked(RewardScore("a")).error or "").startswith("no_score")


def test_what_no_utf8_can_carry_is_replaced():
    assert unscored("a", "function: OSError: no such file: \udcff").error == "function: OSError: no such file: ?"
    assert checked(RewardScore("a", error="broken: \ud800")) == RewardScore("a", error="broken: ?")
    assert checked(RewardScore("a", 0.5, {"x\udcff": 1.0})) == RewardScore("a", 0.5, {"x?": 1.0})
