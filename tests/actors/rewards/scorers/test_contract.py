"""What every scorer promises (`actors.rewards.scorers.scorer.Scorer`), asked of each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.rewards.items import KIND, RewardItem, RewardScore
from actors.rewards.scorers.scorer import Scorer, open_scorer
from configs.sampling import RewardsSection

ANSWERS = ["seven", "It is seven.", "", "no idea", "the answer to this is seven", "7", "seven", "<|im_end|>\u0000\u200b猫 & <answer_a>"]


def length(items: Sequence[RewardItem], scale: float = 1.0) -> list[float]:
    """A user's scorer; it cannot score the instruction "bad"."""
    if any(item.instruction == "bad" for item in items):
        raise ValueError("bad instruction")
    return [scale * len(item.answer) for item in items]


NEEDS_REFERENCE = {"bleu", "chrf", "qa", "judge", "combination"}
SCORERS = ["seqcls", "armorm", "bleu", "chrf", "qa", "judge", "python", "combination"]


@pytest.fixture(params=SCORERS)
def section(request: pytest.FixtureRequest) -> RewardsSection:
    """One of each kind."""
    settings: dict[str, Any] = {
        "seqcls": lambda: {"model": str(request.getfixturevalue("reward_model"))},
        "armorm": lambda: {"model": str(request.getfixturevalue("armorm"))},
        "judge": lambda: {"judge": request.getfixturevalue("judge").section()},
        "python": lambda: {"python": {"function": f"{__name__}:length", "settings": {"scale": 0.5}}},
        "combination": lambda: {
            "combination": {
                "meaning": {"scorer": "seqcls", "weight": 0.25, "model": str(request.getfixturevalue("reward_model"))},
                "words": {"scorer": "bleu", "weight": 2.0},
                "length": {"scorer": "python", "weight": 0.0, "python": {"function": f"{__name__}:length"}},
            }
        },
    }
    return RewardsSection.model_validate({"scorer": request.param, **settings.get(request.param, dict)()})


@pytest.fixture
def scorer(section: RewardsSection) -> Scorer:
    """Of that section."""
    return open_scorer(section)


def items() -> list[RewardItem]:
    return [RewardItem(f"item-{index}", "what is three plus four", answer, "seven", answers=("7",)) for index, answer in enumerate(ANSWERS)]


def bad(section: RewardsSection) -> RewardItem:
    """An item that it cannot score."""
    if section.scorer in NEEDS_REFERENCE:
        return RewardItem("bad", "what is three plus four", "seven")
    return RewardItem("bad", "bad" if section.scorer == "python" else "what " * 200, "seven")


def same(one: Sequence[RewardScore], other: Sequence[RewardScore]) -> None:
    assert [score.id for score in one] == [score.id for score in other]
    for left, right in zip(one, other, strict=True):
        assert left.score == pytest.approx(right.score, rel=2e-6, abs=2e-5)
        assert left.parts == pytest.approx(right.parts, rel=2e-6, abs=2e-5)
        assert left.error == right.error


def test_one_finite_score_an_item_in_order(scorer: Scorer) -> None:
    scores = scorer.score(items())
    assert [score.id for score in scores] == [item.id for item in items()]
    for score in scores:
        assert score.error is None
        assert score.score is not None
        assert math.isfinite(score.score)
        assert all(math.isfinite(part) for part in score.parts.values())
    assert len({score.score for score in scores}) > 1
    assert scores[0].score == scores[6].score  # equal answers
    assert scorer.score([]) == []


def test_scores_depend_on_the_item_alone(scorer: Scorer) -> None:
    together = scorer.score(items())
    same([score for item in items() for score in scorer.score([item])], together)
    same(scorer.score(items()[::-1])[::-1], together)
    same(scorer.score([replace(item, id=f"again-{item.id}") for item in items()])[:1], [replace(together[0], id="again-item-0")])


def test_an_item_that_cannot_be_scored_harms_no_other(scorer: Scorer, section: RewardsSection) -> None:
    [first, second, *_] = items()
    scores = scorer.score([first, bad(section), second])
    assert scores[1].score is None
    assert KIND.fullmatch(str(scores[1].error).partition(":")[0])
    assert scores[1].kind != "other"
    same([scores[0], scores[2]], scorer.score([first, second]))


def test_the_signature_names_the_scorer(scorer: Scorer, section: RewardsSection) -> None:
    assert scorer.signature == open_scorer(section).signature
    scorer.score(items())
    assert scorer.signature == open_scorer(section).signature
    assert "|" in scorer.signature


CHANGES: list[tuple[str, Callable[[RewardsSection, Path], object]]] = [
    ("qa", lambda section, _: setattr(section.qa, "score", "exact")),
    ("judge", lambda section, _: setattr(section.judge, "model", "judge-2")),
    ("judge", lambda section, _: setattr(section.judge, "temperature", 0.5)),
    ("python", lambda section, _: setattr(section.python, "settings", {"scale": 2.0})),
    ("combination", lambda section, _: setattr(section.combination["words"], "weight", 3.0)),
    ("combination", lambda section, _: setattr(section.combination["words"], "scorer", "chrf")),
    ("seqcls", lambda section, other: setattr(section, "model", str(other))),
]


@pytest.mark.parametrize(("section", "change"), CHANGES, indirect=["section"])
def test_other_scores_have_another_signature(section: RewardsSection, change: Any, tmp_path: Path, reward_model: Path) -> None:
    before = open_scorer(section).signature
    (tmp_path / "other").symlink_to(reward_model)
    change(section, tmp_path / "other")
    assert open_scorer(section).signature != before
