"""The same text-only pairs through TRL's DPOTrainer and through the learner: same loss, same gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from configs.training import LossSection
from learner.clips import Clips
from learner.collate import TrainingGroup, collate
from learner.logprobs import AnswerLogProbs, by_sequence
from learner.objective import objective
from policies.adapter import Processing, adapter
from protocol.messages import REFERENCE
from tests.learner.groups import END, completion, group, result

BETA = 0.1
TEXT = "model.language_model."


def pairs() -> list[TrainingGroup]:
    """Three written instructions, each with a teacher's reference and a rejected answer of another length."""
    items = []
    for number, (reference, rejected) in enumerate(
        [("seven", [40, 41, 42, END]), ("the answer is four", [9, END]), ("red house", [77, 3, 5])]
    ):
        asked = msgspec.structs.replace(group(number, voices=0, text=True, reference=reference), instruction=f"what is {number} plus two")
        items.append(
            TrainingGroup(asked, result([completion(0, rejected, finish="stop" if rejected[-1] == END else "length")], [(REFERENCE, 0)]))
        )
    return items


def changed(model: Any) -> Any:
    """The policy: no longer its reference."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def models(checkpoint: Path) -> tuple[Any, Any]:
    """(policy, reference)."""
    family = adapter("qwen2_audio")
    return changed(family.load_model(checkpoint, "float32")).eval(), family.load_model(checkpoint, "float32").eval()


def ours(policy: Any, reference: Any, section: LossSection, processing: Processing, clips: Clips) -> tuple[float, dict[str, Tensor]]:
    family = adapter("qwen2_audio")
    batch = collate(pairs(), processing, clips, cross_entropy=False)
    with torch.no_grad():
        scored = by_sequence(AnswerLogProbs(reference, family)(batch), batch).sequences
    sides = scored[torch.as_tensor(batch.chosen)], scored[torch.as_tensor(batch.rejected)]
    loss, _ = objective(batch, by_sequence(AnswerLogProbs(policy, family)(batch), batch), sides, section, step_groups=batch.groups)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters() if name.startswith((TEXT, "lm_head."))}
    return loss.item(), {name.replace(TEXT, "model."): gradient for name, gradient in gradients.items()}


def language_model(model: Any) -> Any:
    """The text model alone, as TRL takes it."""
    from transformers import Qwen2ForCausalLM

    text = Qwen2ForCausalLM(copy.deepcopy(model.config.text_config)).float()
    text.load_state_dict({n.replace(TEXT, "model."): p for n, p in model.named_parameters() if n.startswith((TEXT, "lm_head."))})
    return text.eval()


def theirs(
    policy: Any, reference: Any, loss_type: str, checkpoint: Path, processing: Processing, folder: Path
) -> tuple[float, dict[str, Tensor]]:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = [
        {
            "prompt_ids": processing.prompt_ids(item.group.prompt, instruction=item.group.instruction),
            "chosen_ids": processing.answer_ids(item.group.reference),
            "rejected_ids": np.frombuffer(item.result.completions[0].token_ids, "<i4").tolist(),
        }
        for item in pairs()
    ]
    table = InMemoryTable(pa.table({key: [row[key] for row in rows] for key in rows[0]}))
    options = {"beta": BETA, "loss_type": loss_type, "max_length": None, "report_to": [], "use_cpu": True, "bf16": False}
    trainer = Prepared(
        model=language_model(policy),
        ref_model=language_model(reference),
        args=DPOConfig(output_dir=str(folder), gradient_checkpointing=False, **options),
        train_dataset=Dataset(table, fingerprint="pairs"),
        processing_class=AutoTokenizer.from_pretrained(str(checkpoint)),
    )
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize(("preference", "length_normalization"), [("sigmoid", False), ("ipo", True)])
def test_loss_and_gradients_equal_trls(
    preference: str,
    length_normalization: bool,
    models: tuple[Any, Any],
    checkpoint: Path,
    processing: Processing,
    clips: Clips,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # a learner in this process has set it; TRL would look for its other ranks
    policy, reference = models
    section = LossSection(
        beta=BETA,
        lambda_ce=0,
        reference_model="frozen",
        preference=preference,
        length_normalization=length_normalization,  # type: ignore[arg-type]
    )
    their_loss, their_gradients = theirs(policy, reference, preference, checkpoint, processing, tmp_path)
    our_loss, our_gradients = ours(policy, reference, section, processing, clips)
    assert our_loss == pytest.approx(their_loss, rel=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-6 * float(their_gradients[name].abs().max() + 1))
