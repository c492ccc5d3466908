"""From the learner's step to the actor's answer: what vLLM samples by a published version has the learner's log-probabilities."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from actors.rollout.generation import GenerationRequest
from configs.training import LearnerSection, LoraSection, LossSection
from policies.adapter import Processing, adapter
from protocol.messages import Completion, GroupResult, Outcome, PolicyVersion, PreferencePair, VersionSpan
from protocol.weights.files import directory_of, open_version
from protocol.weights.messages import Fetched
from tests.learner.conftest import spoken
from tests.learner.groups import group
from tests.learner.stepping import batch

if TYPE_CHECKING:
    from actors.rollout.engine import VllmEngine
    from learner.collate import TrainingGroup

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]
_steps = itertools.count(1)
LORA = LoraSection(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"])
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "everything": ({}, ()),
    "frozen tower": ({"freeze_audio_tower": True}, ("audio_tower.",)),
    "adapters": ({"lora": LORA, "learning_rate": 3e-2}, ("audio_tower.", "multi_modal_projector.")),
}
"""The learner's settings, and the parts of the model that no version carries."""


async def probes(engine: VllmEngine, processing: Processing, version: PolicyVersion) -> list[TrainingGroup]:
    """Answers to two instructions in three voices each, sampled at temperature 1, as an actor would report them."""
    from learner.collate import TrainingGroup

    items = []
    for number in range(2):
        asked = group(number)
        completions = []
        for voice, utterance in enumerate(asked.utterances):
            request = GenerationRequest(
                f"probe-{next(_steps)}", processing.compact_ids(asked.prompt), spoken(utterance.audio or ""), 7 * voice, 24
            )
            answer = await engine.generate(request)
            span = VersionSpan(version, 0, len(answer.token_ids))
            ids, logprobs = np.asarray(answer.token_ids, "<i4").tobytes(), np.asarray(answer.logprobs, "<f4").tobytes()
            completions.append(Completion(voice, ids, logprobs, "", "stop", [span], float(voice)))
        pairs = [PreferencePair(2, 0), PreferencePair(2, 1)]
        items.append(TrainingGroup(asked, GroupResult(number, 0, asked.group_id, Outcome.PAIRS, completions=completions, pairs=pairs)))
    return items


@pytest.mark.parametrize("case", CASES)
async def test_published_weights_answer_as_the_learner_would(
    case: str, vllm_engine: VllmEngine, processing: Processing, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learner.clips import Clips
    from learner.collate import collate
    from learner.engine import Engine, prepare_environment
    from learner.publish import publish
    from learner.ranks import Ranks

    monkeypatch.setenv("LOCAL_RANK", "0")
    family, (settings, left_out) = adapter("qwen2_audio"), CASES[case]
    options: dict[str, Any] = {"precision": "float32", "batch_groups": 4, "micro_batch_groups": 4, "learning_rate": 3e-3, "cpu_threads": 1}
    section = LearnerSection(**{**options, **settings})
    prepare_environment(section)
    ranks, clips, names = Ranks(0, 1, ""), Clips(spoken, processing), family.checkpoint_names(checkpoint)
    try:
        engine = Engine(section, LossSection(beta=0.3, lambda_ce=0.2), family, checkpoint, processing, clips, ranks)
        for step in (1, 2, 3):
            engine.step(batch(), step)
        version = PolicyVersion(100, next(_steps))
        manifest = publish(engine, tmp_path, version, names, "float32", 1 << 16)
        assert {entry.name for entry in manifest.tensors} == engine.trained_names
        assert {entry.name for entry in manifest.tensors} | set(manifest.unchanged) == names
        assert all(not entry.name.startswith(left_out or ("-",)) for entry in manifest.tensors)
        with open_version(directory_of(tmp_path, version)) as opened:
            opened.verify()
            assert opened.manifest.digest == manifest.digest
        await vllm_engine.apply(Fetched(version, str(directory_of(tmp_path, version)), manifest.digest, manifest.size_bytes, 0.0))
        sampled = await probes(vllm_engine, processing, version)
        micro_batch = collate(sampled, processing, clips, cross_entropy=False)
        found = engine.logprobs(micro_batch).numpy()
    finally:
        ranks.close()
    assert np.isfinite(micro_batch.sampler_logprobs).all()
    np.testing.assert_allclose(micro_batch.sampler_logprobs, found, atol=1e-3)
