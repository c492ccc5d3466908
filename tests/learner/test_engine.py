"""Steps of the engine: against plain torch, over ranks and micro-batches, with losses that are not finite."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from policies.adapter import Processing, adapter
from protocol.messages import REFERENCE
from tests.learner.conftest import spoken
from tests.learner.stepping import BASE, LOSS, STEPS, TURNS, batch
from tests.learner.test_collate import answers

SAME = 1e-6
"""Largest difference of a parameter after three AdamW steps of 1e-3: float32 summed in another order."""


@dataclass
class Case:
    steps: list[dict[str, Any]]
    tensors: dict[str, Tensor]

    def difference(self, other: Case | dict[str, Tensor]) -> float:
        tensors = other.tensors if isinstance(other, Case) else other
        assert tensors.keys() == self.tensors.keys()
        return max(float((self.tensors[name] - tensors[name]).abs().max()) for name in tensors)


@pytest.fixture(scope="module")
def cases(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All cases of one and of two ranks."""
    out = tmp_path_factory.mktemp("steps")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for turn, (world, _) in enumerate(TURNS):
        meeting = master if world > 1 else ""
        commands = [
            [sys.executable, "-m", "tests.learner.stepping", str(out), str(checkpoint), str(rank), str(world), meeting, str(turn)]
            for rank in range(world)
        ]
        running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for command in commands]
        for process in running:
            printed, _ = process.communicate(timeout=200)
            assert process.returncode == 0, printed.decode()[-3000:]
    return {file.stem: Case(json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))) for file in out.glob("*.json")}


@pytest.fixture(scope="module")
def start(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


def slow_loss(model: Any, processing: Processing) -> Tensor:
    """Equation 5 over the batch, one answer and one forward at a time."""

    def log_pi(item: Any, utterance: int, token_ids: list[int]) -> Tensor:
        entry, audio = item.group.utterances[utterance], {}
        if entry.audio is None:
            prompt = processing.prompt_ids(item.group.prompt, instruction=item.group.instruction)
        else:
            prompt = processing.prompt_ids(item.group.prompt, samples=spoken(entry.audio))
            features, frame_mask = processing.features([spoken(entry.audio)])
            audio = {"input_features": torch.tensor(features), "feature_attention_mask": torch.tensor(frame_mask)}
        ids = torch.tensor([[*prompt, *token_ids]])
        scores = model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio).logits[0].log_softmax(-1)
        return torch.stack([scores[len(prompt) - 1 + place, token] for place, token in enumerate(token_ids)]).sum()

    total = torch.zeros(())
    items = batch()
    for item in items:
        reference = processing.answer_ids(item.group.reference)
        losses = []
        for pair in item.result.pairs:
            rejected = item.result.completions[pair.rejected].utterance
            log_v_minus = log_pi(item, rejected, answers(item, pair.rejected))
            if pair.chosen == REFERENCE:
                log_v_plus = log_pi(item, rejected, reference)
            else:
                log_v_plus = log_pi(item, item.result.completions[pair.chosen].utterance, answers(item, pair.chosen))
            losses.append(-logsigmoid(LOSS.beta * log_v_plus - LOSS.beta * log_v_minus))
        voices = [-log_pi(item, voice, reference) / len(reference) for voice in range(len(item.group.utterances))]
        total = total + (torch.stack(losses).mean() if losses else 0.0) + LOSS.lambda_ce * torch.stack(voices).mean()
    return total / len(items)


def test_a_step_equals_plain_torch(cases: dict[str, Case], checkpoint: Path, processing: Processing) -> None:
    model: Any = adapter("qwen2_audio").load_model(checkpoint, "float32")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=BASE["learning_rate"], betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(STEPS):
        loss = slow_loss(model, processing)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 1.0))
        found = cases["whole"].steps[step]
        assert found["loss"] / found["groups"] == pytest.approx(float(loss), rel=1e-4)
        assert found["grad_norm"] == pytest.approx(norm, rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    names = adapter("qwen2_audio").released_names(model)
    assert cases["whole"].difference({names[name]: value.detach() for name, value in model.named_parameters()}) < 1e-5


@pytest.mark.parametrize("name", ["split", "stage0", "stage2", "checkpointing", "two_ranks", "two_ranks_split"])
def test_ranks_micro_batches_and_stages_give_the_same_update(cases: dict[str, Case], start: dict[str, Tensor], name: str) -> None:
    assert cases["whole"].difference(start) > 1e-3
    assert cases[name].difference(cases["whole"]) < SAME
    for ours, theirs in zip(cases[name].steps, cases["whole"].steps, strict=True):
        same = {"loss", "preference", "cross_entropy", "margin", "grad_norm", "groups", "pairs", "groups_with_pairs", "answer_tokens"}
        assert {key: ours[key] for key in same} == pytest.approx({key: theirs[key] for key in same}, rel=1e-4)


@pytest.mark.parametrize("name", ["two_ranks_from_one", "one_from_two_ranks", "stage2_from_stage3", "stage0_from_two_ranks"])
def test_a_run_goes_on_with_other_ranks_and_stages(cases: dict[str, Case], name: str) -> None:
    assert cases[name].difference(cases["whole"]) < SAME
    assert cases[name].steps[0]["grad_norm"] == pytest.approx(cases["whole"].steps[-1]["grad_norm"], rel=1e-4)


def test_the_window_is_of_no_consequence(cases: dict[str, Case]) -> None:
    positions = "audio_tower.embed_positions.weight"
    whole, wide = cases["whole"].tensors, cases["window"].tensors
    assert len(wide[positions]) > 7 * len(whole[positions])
    assert torch.equal(wide[positions][: len(whole[positions])], whole[positions])
    assert max(float((wide[name] - whole[name]).abs().max()) for name in whole if name != positions) < SAME
    assert [step["loss"] for step in cases["window"].steps] == pytest.approx([step["loss"] for step in cases["whole"].steps], rel=1e-5)


def test_a_rank_without_pairs_takes_part(cases: dict[str, Case], start: dict[str, Tensor]) -> None:
    """With λ = 0 the tie and the group without answers have nothing to train: one rank has an empty micro-batch, the other none."""
    assert cases["idle"].difference(start) > 1e-3
    assert cases["two_ranks_idle"].difference(cases["idle"]) < SAME
    assert cases["two_ranks_idle"].steps[-1]["loss"] == pytest.approx(cases["idle"].steps[-1]["loss"], rel=1e-4)


def test_figures_count_what_was_there(cases: dict[str, Case]) -> None:
    first = cases["whole"].steps[0]
    assert (first["groups"], first["groups_with_pairs"], first["groups_with_ce"], first["pairs"]) == (4, 2, 4, 4)
    assert first["sampler_tokens"] == sum(len(answers(item, pair.rejected)) for item in batch()[:2] for pair in item.result.pairs) + len(
        answers(batch()[0], 2)
    )


@pytest.mark.parametrize("name", ["reference", "two_ranks_reference"])
def test_first_loss_with_a_frozen_reference_is_log_2(cases: dict[str, Case], name: str) -> None:
    first, second = cases[name].steps[:2]
    assert first["preference"] / first["groups_with_pairs"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0.0, abs=1e-4)
    assert second["preference"] < first["preference"]
    assert cases["two_ranks_reference"].difference(cases["reference"]) < SAME


@pytest.mark.parametrize("name", ["poisoned", "poisoned_stage0", "two_ranks_poisoned"])
def test_a_loss_that_is_not_finite_changes_nothing_on_any_rank(cases: dict[str, Case], start: dict[str, Tensor], name: str) -> None:
    assert [step["applied"] for step in cases[name].steps] == [False] * STEPS
    assert cases[name].difference(start) == 0.0


def test_a_frozen_audio_tower_stays(cases: dict[str, Case], start: dict[str, Tensor]) -> None:
    for name, tensor in cases["frozen_tower"].tensors.items():
        assert torch.equal(tensor, start[name]) == name.startswith("audio_tower."), name


@pytest.mark.parametrize("name", ["two_ranks_lora", "two_ranks_from_lora"])
def test_adapters_move_alike_on_two_ranks(cases: dict[str, Case], start: dict[str, Tensor], name: str) -> None:
    for tensor, value in cases["lora"].tensors.items():
        assert torch.equal(value, start[tensor]) != (
            tensor.startswith("language_model.") and tensor.endswith(("q_proj.weight", "down_proj.weight"))
        )
    assert cases["lora"].steps[0]["preference"] / 2 == pytest.approx(0.693147, abs=1e-5)
    assert cases[name].difference(cases["lora"]) < SAME
    assert cases[name].steps[-1]["loss"] == pytest.approx(cases["lora"].steps[-1]["loss"], rel=1e-4)


def test_bfloat16_is_close(cases: dict[str, Case]) -> None:
    for ours, theirs in zip(cases["bfloat16"].steps, cases["whole"].steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-2)
