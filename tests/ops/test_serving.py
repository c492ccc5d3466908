from pathlib import Path

import pytest

from actors.rewards.scorers.combination import CombinationScorer
from actors.rewards.scorers.scorer import open_scorer
from ops.serving import rewards_of

NONE: dict[str, object] = {"scorer": None, "model": None}


def test_overrides_win_over_options_and_these_over_the_recipe() -> None:
    section = rewards_of("quickstart", {**NONE, "scorer": "bleu", "batch_items": 8}, ["rewards.batch_items=9"], print)
    assert (section.scorer, section.batch_items) == ("bleu", 9)
    section = rewards_of("quickstart-s2tt", NONE, [], print)
    assert section.scorer == "bleu"


def test_a_recipe_of_nothing_but_rewards_is_one_too(tmp_path: Path) -> None:
    """What several parts need is easier written down than typed."""
    recipe = tmp_path / "rewards.yaml"
    recipe.write_text(
        "rewards:\n  scorer: combination\n  combination:\n    words: {scorer: bleu}\n    letters: {scorer: chrf, weight: 0.5}\n"
    )
    section = rewards_of(str(recipe), NONE, ["rewards.combination.words.weight=2"], print)
    scorer = open_scorer(section)
    assert isinstance(scorer, CombinationScorer)
    assert scorer.signature.startswith("combination|2*words[")


def test_every_checkpoint_becomes_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert rewards_of(None, {"scorer": "seqcls", "model": "one"}, [], print).model == str(tmp_path / "one")
    parts = ["scorer=combination", "combination.a.scorer=seqcls", "combination.a.model=one", "combination.b.scorer=seqcls"]
    section = rewards_of(None, NONE, [f"rewards.{part}" for part in [*parts, "combination.b.model=two"]], print)
    assert section.models == {f"rewards.combination.{part}.model": str(tmp_path / name) for part, name in (("a", "one"), ("b", "two"))}
