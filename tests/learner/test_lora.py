"""Adapters: what is trained, what is merged, what the reference model is without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.training import LearnerSection, LoraSection, LossSection
from learner import lora
from learner.clips import Clips
from learner.engine import Engine, prepare_environment
from learner.ranks import Ranks
from policies.adapter import Processing, adapter
from protocol.errors import UserError
from tests.learner.stepping import batch

FAMILY = adapter("qwen2_audio")
SECTION = LoraSection(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"])


def randomise(model: nn.Module) -> None:
    """B starts at zero; give it something to merge."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if lora.is_adapter(name):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def model(checkpoint: Path) -> Any:
    found = FAMILY.load_model(checkpoint, "float32").eval()
    lora.inject(found, SECTION, FAMILY, seed=0)
    return found


def test_only_the_language_models_adapters_are_trained(model: Any) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(lora.is_adapter(name) and "language_model" in name for name in trained)


def test_merged_weights_are_pefts(model: Any, checkpoint: Path) -> None:
    randomise(model)
    names = FAMILY.released_names(FAMILY.load_model(checkpoint, "float32"))
    merged = {weight.parameter_name.replace(lora.BASE, ""): (weight.is_trained, weight.read().clone()) for weight in lora.weights(model)}
    assert merged.keys() == names.keys()
    for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
        layer.merge()
    theirs = {name.replace(lora.BASE, ""): parameter for name, parameter in model.named_parameters() if not lora.is_adapter(name)}
    for name, (is_trained, tensor) in merged.items():
        torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=1e-6)
        assert is_trained == (name.split(".")[-2] in SECTION.target_modules and name.endswith("weight") and "language_model" in name)


def test_without_adapters_the_model_is_the_checkpoint(model: Any, checkpoint: Path) -> None:
    randomise(model)
    plain: Any = FAMILY.load_model(checkpoint, "float32").eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        expected, adapted = plain(input_ids=ids).logits, model(input_ids=ids).logits
        with lora.without(model):
            bare = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert torch.equal(bare, expected)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    assert torch.equal(again, adapted)
    assert all(parameter.requires_grad == lora.is_adapter(name) for name, parameter in model.named_parameters())


def test_names_that_no_layer_has_are_the_users_mistake(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no linear layer of these names: qproj"):
        lora.inject(FAMILY.load_model(checkpoint, "float32"), LoraSection(target_modules=["qproj"]), FAMILY, seed=0)


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "float32"), (1, "bfloat16"), (3, "float32"), (3, "bfloat16")])
def test_the_engine_trains_adapters_against_the_model_without_them(
    zero_stage: int, precision: str, checkpoint: Path, processing: Processing, clips: Clips
) -> None:
    """The same figures as with a frozen copy, and of the tensors only those with adapters move."""
    options: dict[str, Any] = {"precision": precision, "batch_groups": 4, "micro_batch_groups": 2, "learning_rate": 1e-2}
    section = LearnerSection(**options, zero_stage=zero_stage, lora=SECTION, cpu_threads=0)
    prepare_environment(section)
    found = {}
    for reference_model in ("frozen", "adapter_off"):
        loss = LossSection(beta=0.3, lambda_ce=0.2, reference_model=reference_model)  # type: ignore[arg-type]
        ranks = Ranks(0, 1, "")
        try:
            engine = Engine(section, loss, FAMILY, checkpoint, processing, clips, ranks)
            before = dict(engine.tensors(precision))
            figures = [engine.step(batch(), step).figures for step in (1, 2, 3)]
            after, pushed = dict(engine.tensors(precision)), dict(engine.tensors(precision, trained=True))
        finally:
            ranks.close()
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert moved == engine.trained_names == pushed.keys()
        assert all(name.split(".")[-2] in SECTION.target_modules for name in moved)
        assert before.keys() == FAMILY.checkpoint_names(checkpoint)
        found[reference_model] = [(each.loss, each.preference, each.margin) for each in figures]
    assert found["adapter_off"] == found["frozen"]
    assert found["frozen"][0][1] / 2 == pytest.approx(0.693147, abs=1e-3 if precision == "bfloat16" else 1e-5)
    assert found["frozen"][2][1] < found["frozen"][0][1]
