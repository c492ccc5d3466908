from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.rewards.items import RewardItem, RewardScore, unscored
from actors.rewards.scorers.bleu import BleuScorer
from actors.rewards.scorers.combination import CombinationScorer, Part
from actors.rewards.scorers.scorer import open_scorer
from configs.sampling import RewardsSection
from protocol.errors import UserError


class Fixed:
    """Gives what it was told."""

    def __init__(self, *scores: RewardScore) -> None:
        self.scores, self.signature = list(scores), "fixed|1"

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        return self.scores


ITEMS = [RewardItem("1", "say", "seven", "seven"), RewardItem("2", "say", "x")]
GIVEN = Fixed(RewardScore("1", 2.0, {"clarity": 0.5}), RewardScore("2", 4.0, {"clarity": 0.25}))


def test_the_score_is_the_weighted_sum_and_every_part_is_kept():
    scores = CombinationScorer({"words": Part(BleuScorer(), 3.0), "given": Part(GIVEN, -0.5)}).score(ITEMS)
    assert scores[0].score == pytest.approx(3.0 * 1.0 - 0.5 * 2.0)
    assert scores[0].parts == {"words": pytest.approx(1.0), "words.brevity_penalty": 1.0, "given": 2.0, "given.clarity": 0.5}


def test_an_item_is_unscored_for_the_reason_of_the_first_part_that_cannot_score_it():
    scores = CombinationScorer({"given": Part(GIVEN, 1.0), "words": Part(BleuScorer(), 3.0)}).score(ITEMS)
    assert scores[0].error is None
    assert (scores[1].score, scores[1].kind) == (None, "no_reference")
    assert scores[1].error == "no_reference: words: BLEU compares with a reference, and the item has none"
    assert scores[1].parts == {"given": 4.0, "given.clarity": 0.25}


def test_a_part_without_weight_decides_nothing():
    scores = CombinationScorer({"given": Part(GIVEN, 1.0), "words": Part(BleuScorer(), 0.0)}).score(ITEMS)
    assert [score.score for score in scores] == [2.0, 4.0]
    assert "words" in scores[0].parts
    assert "words" not in scores[1].parts


def test_what_a_part_may_not_give_is_its_error():
    wrong = Fixed(RewardScore("1", float("nan")), unscored("2", "what a strange reason"))
    scores = CombinationScorer({"given": Part(GIVEN, 1.0), "wrong": Part(wrong, 1.0)}).score(ITEMS)
    assert [score.kind for score in scores] == ["non_finite", "other"]
    assert scores[1].error == "other: wrong: what a strange reason"


def section(**parts: dict[str, Any]) -> RewardsSection:
    return RewardsSection.model_validate({"scorer": "combination", "combination": parts, "batch_items": 2, "cpu_threads": 1})


def test_parts_have_settings_of_their_own(reward_model: Path):
    parts = {
        "a": {"scorer": "qa", "qa": {"score": "exact"}},
        "b": {"scorer": "qa", "weight": 10},
        "c": {"scorer": "seqcls", "model": str(reward_model)},
    }
    opened = open_scorer(section(**parts))
    [score] = opened.score([RewardItem("1", "say", "it is seven", "seven")])
    assert score.score == pytest.approx(10 + score.parts["c"])
    assert (score.parts["a"], score.parts["a.containment"], score.parts["b"]) == (0.0, 1.0, 1.0)
    assert opened.signature.startswith("combination|1*a[qa|score:exact|")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"scorer": "seqcls"}, r"rewards\.combination\.second\.model: .*no checkpoint"),
        (
            {"scorer": "python", "python": {"function": "math:sqroot"}},
            r"rewards\.combination\.second\.python\.function: .*did you mean sqrt",
        ),
        ({"scorer": "judge", "judge": {"url": "nowhere", "model": "m"}}, r"rewards\.combination\.second\.judge\.url: "),
    ],
)
def test_mistakes_are_told_by_the_key_of_the_part(part: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        open_scorer(section(first={"scorer": "bleu"}, second=part))
