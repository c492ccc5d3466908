import pytest

from actors.rewards.items import RewardScore
from actors.rewards.scorers.bleu import BleuScorer
from benchmarks import bleu


def test_every_case_has_its_goal_and_its_peer() -> None:
    rows = bleu.measure(count=12)
    assert [(row["peer"], row["unit"]) for row in rows] == [("goal", "sentences/s"), ("sacrebleu", "sentences/s")] * 3
    assert all(row["ours"] > 0 for row in rows)
    assert {row["theirs"] for row in rows if row["peer"] == "goal"} == {bleu.GOAL}


def test_scores_that_differ_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BleuScorer, "score", lambda _, items: [RewardScore(item.id, 0.5) for item in items])
    with pytest.raises(AssertionError, match="differs"):
        bleu.measure(count=12)
