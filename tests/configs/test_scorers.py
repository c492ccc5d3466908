from pathlib import Path
from typing import Any

import pytest

from configs import loader
from configs.keys import key_docs
from configs.sampling import RewardsSection
from configs.schema import RunConfig
from configs.serving import ServingConfig
from protocol.errors import UserError

JUDGE = ["rewards.scorer=judge", "rewards.judge.url=http://127.0.0.1:1/v1", "rewards.judge.model=m"]
PARTS: dict[str, Any] = {
    "right": {"scorer": "qa", "weight": 2, "qa": {"score": "exact"}},
    "taste": {"scorer": "seqcls", "model": "one"},
    "form": {"scorer": "armorm", "model": "two", "weight": 0},
}


def serving(*overrides: str) -> RewardsSection:
    return loader.load(None, overrides, schema=ServingConfig).rewards


def refusal(*overrides: str) -> UserError:
    with pytest.raises(UserError) as told:
        serving(*overrides)
    return told.value


def combined(**changes: Any) -> RewardsSection:
    return RewardsSection.model_validate({"scorer": "combination", "combination": PARTS, "batch_items": 7, **changes})


def run(**rewards: Any) -> RunConfig:
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "rewards": rewards})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rewards.scorer=bluu"], "did you mean `bleu`?"),
        (["rewards.scorer=tarot"], "'seqcls', 'armorm', 'bleu', 'chrf', 'qa', 'judge', 'python' or 'combination'"),
        (["rewards.scorer=reward_model"], "write seqcls"),
        (["rewards.scorer=seqcls"], "needs rewards.model; set rewards.model"),
        (["rewards.scorer=armorm"], "needs rewards.model; set rewards.model"),
        (["rewards.scorer=judge", "rewards.judge.model=m"], "set rewards.judge.url"),
        (["rewards.scorer=judge", "rewards.judge.url=http://x/v1"], "set rewards.judge.model"),
        (["rewards.scorer=python"], "set rewards.python.function"),
        (["rewards.scorer=qa", "rewards.qa.score=near"], "'containment' or 'exact'"),
        (["rewards.scorer=combination"], "needs parts of a weight"),
        (["rewards.scorer=combination", "rewards.combination.a={scorer: bleu, weight: 0}"], "needs parts of a weight"),
        (["rewards.combination.a={scorer: bleu, weight: .inf}"], "rewards.combination.a.weight"),
        (["rewards.combination.a={weight: 1}"], "`rewards.combination.a.scorer` is missing"),
        (["rewards.combination.a={scorer: bluu}"], "did you mean `bleu`?"),
        (["rewards.combination.a={scorer: combination}"], "must be 'seqcls'"),
        (["rewards.combination.a={scorer: reward_model}"], "write seqcls"),
        (["rewards.combination={a b: {scorer: bleu}}"], "'a b' is no name of a part"),
        (["rewards.combination.a.weigth=2"], "did you mean `rewards.combination.a.weight`?"),
        (["rewards.combination.a.judge.urll=x"], "did you mean `rewards.combination.a.judge.url`?"),
        (["rewards.scorer=combination", "rewards.combination.a.scorer=python"], "set rewards.combination.a.python.function"),
    ],
)
def test_mistakes_name_the_key_and_what_to_do(overrides: list[str], words: str) -> None:
    error = refusal(*overrides)
    assert words in str(error)
    assert "pydantic" not in str(error)


def test_a_part_in_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "rewards.yaml"
    recipe.write_text("rewards:\n  scorer: combination\n  combination:\n    words:\n      scorer: bleu\n      wieght: 2\n")
    with pytest.raises(UserError, match=r"rewards\.yaml:6: unknown key `rewards\.combination\.words\.wieght`"):
        loader.load(recipe, schema=ServingConfig)


def test_servers_that_run_already_know_the_parts_of_their_combination() -> None:
    assert RewardsSection.model_validate({"scorer": "combination", "urls": ["http://127.0.0.1:1"]}).parts == {}


def test_free_keys_stay_free() -> None:
    section = serving(*JUDGE, "rewards.judge.extra.top_p=0.5", "rewards.python.settings.limit=3")
    assert (section.judge.extra, section.python.settings) == ({"top_p": 0.5}, {"limit": 3})


def test_the_schema_describes_a_part() -> None:
    docs = {doc.path: doc for doc in key_docs()}
    assert docs["rewards.combination"].type == "sections"
    assert docs["rewards.combination.NAME.weight"].type == "float"
    assert "multiplied" in docs["rewards.combination.NAME.weight"].doc
    assert docs["rewards.combination.NAME.judge.url"].doc == docs["rewards.judge.url"].doc


def test_the_parts_and_the_checkpoints_that_they_load() -> None:
    assert {key: part.scorer for key, part in combined().parts.items()} == {
        f"rewards.combination.{name}": part["scorer"] for name, part in PARTS.items()
    }
    assert combined().models == {"rewards.combination.taste.model": "one", "rewards.combination.form.model": "two"}
    assert RewardsSection(scorer="bleu", model="unused").models == {}
    assert RewardsSection(scorer="seqcls", model="one").models == {"rewards.model": "one"}


def test_a_part_alone_keeps_what_the_server_is_told() -> None:
    alone = combined(cpu_threads=3).alone("right")
    assert (alone.scorer, alone.qa.score, alone.batch_items, alone.cpu_threads, alone.combination) == ("qa", "exact", 7, 3, {})


def test_a_run_reads_back_what_it_wrote(tmp_path: Path) -> None:
    config = run(scorer="combination", combination=PARTS)
    path = tmp_path / "config.yaml"
    path.write_text(loader.to_yaml(config))
    assert loader.load(path) == config


def test_the_checkpoints_of_a_run_are_those_that_its_servers_load() -> None:
    config = run(scorer="combination", combination=PARTS)
    assert config.checkpoints == {"model.path": "m", "rewards.combination.taste.model": "one", "rewards.combination.form.model": "two"}
    assert run(scorer="combination", combination=PARTS, urls=["http://x"]).checkpoints == {"model.path": "m"}
    assert run(scorer="judge", urls=["http://x"]).checkpoints == {"model.path": "m"}


def test_what_a_run_that_goes_on_may_change_of_its_scorers() -> None:
    def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
        return [key for key, _, _ in run(**one).fixed_differences(run(**other))]

    judge = {"scorer": "judge", "judge": {"url": "http://x/v1", "model": "m"}}
    assert differences(judge, {**judge, "judge": {"url": "http://y/v1", "model": "m", "concurrency": 3}}) == []
    assert differences(judge, {**judge, "judge": {"url": "http://x/v1", "model": "other"}}) == ["rewards.judge.model"]
    one = {"scorer": "combination", "combination": PARTS}
    moved = {**one, "combination": {**PARTS, "taste": {"scorer": "seqcls", "model": "/b/one"}}}
    assert differences(one, moved) == ["rewards.combination.taste.model"]
    fewer = {**one, "combination": {"right": PARTS["right"]}}
    assert differences(one, fewer) == ["rewards.combination"]


def test_a_part_has_servers_of_its_own_whatever_the_run_asks():
    whole = combined(protocol="classify", urls=["http://127.0.0.1:1"], model="m")
    assert (whole.alone("right").protocol, whole.alone("right").urls) == ("native", [])


def test_the_deadline_lets_a_try_end():
    assert RewardsSection(timeout_s=50).request_limit_s == 200
    with pytest.raises(ValueError, match=r"deadline_s \(30\) must be above rewards.timeout_s \(30\)"):
        RewardsSection(timeout_s=30, deadline_s=30)
