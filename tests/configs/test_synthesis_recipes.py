from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs import loader
from configs.synthesis import SynthesisConfig

RECIPES = loader.recipes(SynthesisConfig)
FROM_ENGLISH = {"s2tt-covost2": ["de", "zh"], "s2tt-mustc": ["es", "fr", "it"]}
"""Table 7."""
INTO_ENGLISH = ["ar", "cy", "de", "el", "es", "fa", "fr", "hi", "it", "ja", "pt", "ta", "uk", "vi", "zh"]
"""Table 6."""
DIRECTIONS = [("s2tt-fleurs", language, "en") for language in INTO_ENGLISH] + [
    (recipe, "en", language) for recipe, languages in FROM_ENGLISH.items() for language in languages
]


def of_direction(recipe: str, source: str, target: str) -> SynthesisConfig:
    key, language = ("source", source) if target == "en" else ("target", target)
    return loader.load(recipe, [f"corpus.{key}_language={language}"], schema=SynthesisConfig)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_loads_and_names_its_data_set(name: str) -> None:
    assert loader.load(name, schema=SynthesisConfig).name


@pytest.mark.parametrize(("recipe", "source", "target"), DIRECTIONS)
def test_a_direction_is_one_override(recipe: str, source: str, target: str) -> None:
    config = of_direction(recipe, source, target)
    assert (config.corpus.source_language, config.corpus.target_language) == (source, target)
    assert config.name == f"{recipe}-{source}-{target}"
    assert config.instructions.source == "corpus"
    assert config.corpus.own_references == ("test",)
    assert config.corpus.kept_out == "corpora/fleurs"
    assert (config.filter.enabled, config.tags.enabled, config.splits.keep) == (False, False, True)


@pytest.mark.parametrize(("recipe", "source", "target"), DIRECTIONS)
def test_every_direction_is_trained_on(recipe: str, source: str, target: str) -> None:
    run = loader.load("qwen2-audio-7b-s2tt-x-en-1x8" if target == "en" else "qwen2-audio-7b-s2tt-en-x-1x8")
    manifest = f"data/{of_direction(recipe, source, target).name}/train.jsonl"
    assert manifest in {run.data.train, *run.data.mix}
    assert len({run.data.train, *run.data.mix}) == (len(INTO_ENGLISH) if target == "en" else 5)
    assert (run.strategy, run.rewards.scorer) == ("group", "bleu")


def test_there_are_as_many_pairs_as_in_the_paper() -> None:
    from_english = [of_direction(*direction).corpus.train or 0 for direction in DIRECTIONS if direction[1] == "en"]
    into_english = [of_direction(*direction).corpus.train for direction in DIRECTIONS if direction[2] == "en"]
    assert sum(from_english) + 42_000 == 327_000
    assert set(into_english) == {None}


def test_questions_have_one_voice_and_short_answers() -> None:
    config = loader.load("qa-llama-70b", schema=SynthesisConfig)
    assert (config.speech.voices_per_group, config.filter.max_reference_words) == (1, 5)
    run = loader.load("qwen2-audio-7b-qa-1x8")
    assert (run.strategy, run.learner.epochs) == ("single", 2)
    instructions = loader.load("instructions-llama-70b", schema=SynthesisConfig)
    assert run.data.train == f"data/{instructions.name}/train.jsonl"
    assert run.data.mix == {f"data/{config.name}/train.jsonl": 20_000 / 250_000}


def test_every_command_of_the_documentation_names_a_recipe() -> None:
    text = (Path(__file__).parents[2] / "docs" / "synthesis.md").read_text(encoding="utf-8")
    named = set(re.findall(r"rba synthesize ((?:s2tt|qa|spoken)[\w-]*)", text))
    assert {"s2tt-fleurs", "s2tt-covost2", "s2tt-mustc", "qa-llama-70b", "spoken-alpaca"} == named
    assert set(re.findall(r"rba launch (qwen[\w-]*)", text)) <= set(loader.recipes())
