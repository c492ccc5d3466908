from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import loader
from configs.schema import RunConfig
from protocol.errors import UserError

MINIMAL = """\
model:
  path: somewhere
data:
  train: train.jsonl
rewards:
  scorer: bleu
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path | str, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        loader.load(path, overrides)
    return caught.value


def test_defaults_fill_what_a_recipe_leaves_out(recipe: Path) -> None:
    config = loader.load(recipe)
    assert config == RunConfig.model_validate(yaml.safe_load(MINIMAL))


def test_overrides_replace_values_and_the_last_one_wins(recipe: Path) -> None:
    config = loader.load(recipe, ["learner.steps=7", "learner.steps=9", "learner.learning_rate=1e-5", "rewards.urls=[http://a, http://b]"])
    assert (config.learner.steps, config.learner.learning_rate, config.rewards.urls) == (9, 1e-5, ["http://a", "http://b"])


def test_free_sections_take_any_key(recipe: Path) -> None:
    config = loader.load(recipe, ["rollout.sampling.extra.min_p=0.1", "learner.deepspeed.zero_optimization.overlap_comm=false"])
    assert config.rollout.sampling.extra == {"min_p": 0.1}
    assert config.learner.deepspeed == {"zero_optimization": {"overlap_comm": False}}


def test_interpolations_see_overrides(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "learner:\n  batch_groups: 4\nrollout:\n  capacity_groups: ${learner.batch_groups}\n")
    assert loader.load(recipe, ["learner.batch_groups=6"]).rollout.capacity_groups == 6


@pytest.mark.parametrize(
    ("line", "key", "near"),
    [
        ("learner: {step: 3}", "learner.step", "learner.steps"),
        ("learner: {publish_evry: 3}", "learner.publish_evry", "learner.publish_every"),
        ("learnr: {steps: 3}", "learnr.steps", "learner.steps"),
        ("steps: 3", "steps", "learner.steps"),
        ("loss: {lambda: 0.1}", "loss.lambda", "loss.lambda_ce"),
        ("rollout: {sampling: {temprature: 1}}", "rollout.sampling.temprature", "rollout.sampling.temperature"),
        ("rollout: {temperature: 1}", "rollout.temperature", "rollout.sampling.temperature"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one(recipe: Path, line: str, key: str, near: str) -> None:
    recipe.write_text(MINIMAL + line + "\n")
    error = refusal(recipe)
    assert key in error.what
    assert near in error.fix
    assert error.where == f"{recipe}:{len(MINIMAL.splitlines()) + 1}"


def test_an_unknown_override_is_named(recipe: Path) -> None:
    error = refusal(recipe, "learner.stepz=3")
    assert (error.where, "learner.steps" in error.fix) == ("-o learner.stepz=3", True)


def test_a_key_like_no_other_points_to_the_schema(recipe: Path) -> None:
    assert "config schema" in refusal(recipe, "qqqq.zzzz=1").fix


def test_a_wrong_type_says_what_must_stand_there(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "learner:\n  batch_groups: 8\n  steps: many\n")
    error = refusal(recipe)
    assert error.where == f"{recipe}:9"
    assert "learner.steps" in error.what
    assert "'many'" in error.what
    assert "integer" in error.what
    assert "pydantic" not in str(error)


def test_a_wrong_choice_lists_the_choices(recipe: Path) -> None:
    error = refusal(recipe, "strategy=grupo")
    assert "'group', 'single', 'hybrid' or 'sft'" in error.what
    assert error.where == "-o strategy=grupo"


def test_a_value_where_a_section_belongs(recipe: Path) -> None:
    assert "section" in refusal(recipe, "learner=3").what


def test_a_missing_key_is_named_with_its_meaning(recipe: Path) -> None:
    recipe.write_text("model: {path: x}\ndata: {test: y}\nrewards: {scorer: bleu}\n")
    error = refusal(recipe)
    assert "data.train" in error.what
    assert error.where == f"{recipe}:2"
    assert "Manifest" in error.fix


def test_several_mistakes_are_told_at_once(recipe: Path) -> None:
    error = refusal(recipe, "learner.steps=-1", "rollout.actors=0")
    assert "2 keys" in error.what
    assert "learner.steps" in error.what
    assert "rollout.actors" in error.what
    assert "-o learner.steps=-1" in error.what


@pytest.mark.parametrize(
    ("overrides", "key", "advice"),
    [
        (["loss.lambda_ce=0"], "lambda_ce", "reference_model=frozen"),
        (["learner.max_policy_lag=2", "learner.publish_every=9"], "max_policy_lag", "publish more often"),
        (["learner.ranks=3"], "ranks", ""),
        (["rewards.scorer=armorm"], "rewards.model", ""),
        (["network.bind=0.0.0.0"], "network.bind", "set network.keys to a folder for them"),
        (["network.bind=0.0.0.0"], "network.bind", "network.insecure=true"),
        (["fleet.autoscale=true", "weights.backend=nccl"], "weights.backend", "fleet.autoscale=false"),
        (["network.keys=keys", "weights.backend=nccl", "network.bind=0.0.0.0"], "weights.backend", "weights.in_clear=true"),
    ],
)
def test_impossible_combinations_are_refused_with_what_to_do(recipe: Path, overrides: list[str], key: str, advice: str) -> None:
    error = refusal(recipe, *overrides)
    assert key in error.what
    assert advice in str(error)
    assert overrides[-1] in error.where
    assert "Value error" not in str(error)


@pytest.mark.parametrize("override", ["learner.steps", "=3", "learner..steps=3", ".=1"])
def test_a_malformed_override_shows_how_to_write_one(recipe: Path, override: str) -> None:
    assert "key.path=value" in refusal(recipe, override).fix


def test_a_missing_file_lists_the_recipes(tmp_path: Path) -> None:
    error = refusal(tmp_path / "quikstart.yaml")
    assert "quickstart" in error.what
    assert "qwen2-audio-7b-group-1x8" in error.fix


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path).what


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(path).what


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n", "3\n"])
def test_a_file_that_is_no_mapping(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert "mapping" in refusal(recipe).what


def test_broken_yaml_names_the_line(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "learner: {steps: 3\n")
    error = refusal(recipe)
    assert "YAML" in error.what
    assert error.where.startswith(f"{recipe}:")


def test_a_key_given_twice_is_refused(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "strategy: group\nstrategy: single\n")
    assert "duplicate" in refusal(recipe).what


def test_a_key_that_is_no_text_is_refused(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "? \n: 3\n")
    assert "YAML" in refusal(recipe).what


def test_an_interpolation_of_nothing(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "strategy: ${nowhere}\n")
    assert "nowhere" in refusal(recipe).what


def test_a_resolved_configuration_loads_again_as_itself(recipe: Path, tmp_path: Path) -> None:
    config = loader.load(recipe, ["learner.betas=[0.9, 0.95]", "rollout.engine.extra.seed=3"])
    resolved = tmp_path / "config.yaml"
    resolved.write_text(loader.to_yaml(config, {"commit": "abc", "versions": {"ray": "2.60.0"}}))
    assert loader.load(resolved) == config


def test_a_bare_name_is_a_shipped_recipe_even_beside_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert loader.load("quickstart").run.name == "quickstart"


@given(st.text(max_size=60))
def test_any_text_is_a_run_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError):
        loader.load(path)


@given(st.text(max_size=40))
def test_any_override_is_applied_or_refused(tmp_path_factory: pytest.TempPathFactory, override: str) -> None:
    path = tmp_path_factory.getbasetemp() / "minimal.yaml"
    path.write_text(MINIMAL)
    with contextlib.suppress(UserError):
        assert isinstance(loader.load(path, [override]), RunConfig)
