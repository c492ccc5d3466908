from __future__ import annotations

import pytest

from configs import loader
from ops import plan

RECIPES = sorted(loader.recipes())
EIGHT_GPUS = plan.Machine(cpus=96, gpus=8, shared_memory_bytes=512 << 30)
GPUS = {
    "qwen2-audio-7b-group-1x8": 8,
    "qwen2-audio-7b-single-1x8": 8,
    "qwen2-audio-7b-group-4x8": 32,
    "qwen2-audio-7b-single-4x8": 32,
    "qwen2-audio-7b-lora-1x2": 2,
    "qwen2-audio-7b-s2tt-x-en-1x8": 8,
    "qwen2-audio-7b-s2tt-en-x-1x8": 8,
    "qwen2-audio-7b-qa-1x8": 8,
    "paper-literal": 32,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_is_named_after_itself(name: str) -> None:
    assert loader.load(name).run.name == name


@pytest.mark.parametrize("name", sorted(GPUS))
def test_a_recipe_uses_every_gpu_of_its_machines(name: str) -> None:
    planned = plan.make(loader.load(name), EIGHT_GPUS)
    assert planned.gpus == GPUS[name]
    assert planned.warnings == []


def test_all_recipes_are_covered() -> None:
    assert {name for name in RECIPES if not name.startswith("quickstart")} == set(GPUS)


@pytest.mark.parametrize("name", RECIPES)
def test_the_learner_can_always_fill_a_batch_before_pairs_get_old(name: str) -> None:
    config = loader.load(name)
    assert config.learner.max_policy_lag >= config.learner.publish_every - 1
    assert config.rollout.actors * config.rollout.capacity_groups <= config.budget_groups


def test_the_literal_recipe_has_the_printed_values() -> None:
    config = loader.load("paper-literal")
    assert (config.loss.beta, config.loss.lambda_ce, config.loss.ce_reduction, config.loss.reference_model) == (0.1, 0.2, "sum", "none")
    section = config.learner
    assert (section.learning_rate, section.warmup_steps, section.weight_decay) == (1e-4, 3000, 0.98)
