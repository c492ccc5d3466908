"""Policy versions inside vLLM: what is applied, what is refused, what is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from actors.rollout.generation import Generated, GenerationRequest, RefusedVersionError
from policies.adapter import Processing
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of, open_version, write_version
from protocol.weights.messages import Fetched
from tests.actors.rollout.conftest import START, section
from tests.tiny import tone

if TYPE_CHECKING:
    from actors.rollout.engine import VllmEngine
    from tests.actors.rollout.weights import Weights

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]
CLIP = tone(1.7, seed=3)
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def caching_engine(checkpoint: Path, processing: Processing) -> AsyncIterator[VllmEngine]:
    """An engine whose caches name an audio by its content, and so would serve what old weights made of it."""
    from actors.rollout.engine import VllmEngine

    settings = section(mm_processor_cache_gb=0.05)
    engine = VllmEngine(checkpoint, "float32", settings, processing.stop_token_ids)
    try:
        await engine.start(START)
        yield engine
    finally:
        await engine.close()


async def greedy(engine: VllmEngine, processing: Processing, samples: Any = CLIP, max_tokens: int = 12) -> Generated:
    request = GenerationRequest(f"w{next(_numbers)}", processing.compact_ids(""), samples, 0, max_tokens, greedy=True)
    return await engine.generate(request)


def expected(weights: Weights, processing: Processing, answer: Generated, samples: Any = CLIP) -> np.ndarray:
    return weights.logprobs(processing, processing.prompt_ids("", samples), samples, answer.token_ids)


@pytest.fixture(params=["vllm_engine", "caching_engine"])
def engine(request: pytest.FixtureRequest) -> VllmEngine:
    found: VllmEngine = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("part", ["multi_modal_projector", "audio_tower.layers", "language_model", "lm_head"])
async def test_an_applied_version_is_the_whole_model(engine: VllmEngine, part: str, weights: Weights, processing: Processing) -> None:
    """The same audio before and after: what is heard after is computed by the new weights alone, as transformers computes it."""
    weights.restore()
    await engine.apply(weights.publish())
    before = await greedy(engine, processing)
    np.testing.assert_allclose(before.logprobs, expected(weights, processing, before), atol=1e-3)
    weights.perturb(part)
    await engine.apply(weights.publish())
    after = await greedy(engine, processing)
    assert np.abs(np.subtract(after.logprobs[0], before.logprobs[0])) > 1e-2
    np.testing.assert_allclose(after.logprobs, expected(weights, processing, after), atol=1e-3)


@pytest.mark.parametrize("part", ["multi_modal_projector", "layers.0.self_attn.q_proj.weight", "lm_head"])
async def test_a_version_without_the_unchanged_tensors_is_the_whole_model(
    part: str, vllm_engine: VllmEngine, weights: Weights, processing: Processing
) -> None:
    """Also where vLLM fuses a tensor that comes with others that do not."""
    weights.restore()
    await vllm_engine.apply(weights.publish())
    before = await greedy(vllm_engine, processing)
    weights.perturb(f"language_model.{part}" if "layers" in part else part)
    await vllm_engine.apply(weights.publish(f"language_model.model.{part}" if "layers" in part else part))
    after = await greedy(vllm_engine, processing)
    assert np.abs(np.subtract(after.logprobs[0], before.logprobs[0])) > 1e-2
    np.testing.assert_allclose(after.logprobs, expected(weights, processing, after), atol=1e-3)


async def test_without_the_reset_a_cache_serves_what_old_weights_heard(
    caching_engine: VllmEngine, weights: Weights, processing: Processing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why `apply` clears caches: the test above would fail here if it did not."""
    weights.restore()
    await caching_engine.apply(weights.publish())
    before = await greedy(caching_engine, processing)
    llm: Any = caching_engine._llm
    pause = llm.pause_generation
    monkeypatch.setattr(llm, "pause_generation", lambda *, mode, clear_cache: pause(mode=mode, clear_cache=False))
    weights.perturb("multi_modal_projector")
    await caching_engine.apply(weights.publish())
    stale = await greedy(caching_engine, processing)
    assert stale.logprobs == pytest.approx(before.logprobs, abs=1e-6)
    assert np.abs(stale.logprobs - expected(weights, processing, stale)).max() > 1e-2
    monkeypatch.undo()
    await caching_engine.apply(weights.publish())
    np.testing.assert_allclose(
        (cured := await greedy(caching_engine, processing)).logprobs, expected(weights, processing, cured), atol=1e-3
    )


async def test_caches_survive_many_versions_under_load(caching_engine: VllmEngine, weights: Weights, processing: Processing) -> None:
    """Requests that arrive while caches are cleared lose their audio on the way at most for a retry."""
    weights.restore()
    clips = [tone(1.0, seed) for seed in range(4)]
    running = True

    async def ask(number: int) -> int:
        asked = 0
        while running:
            await greedy(caching_engine, processing, clips[number % 4], 6)
            asked += 1
        return asked

    asking = [asyncio.create_task(ask(number)) for number in range(8)]
    for _ in range(10):
        await caching_engine.apply(weights.publish())
    running = False
    assert min(await asyncio.gather(*asking)) > 0


async def test_answers_under_way_are_read_again_by_the_new_weights(
    vllm_engine: VllmEngine, weights: Weights, processing: Processing
) -> None:
    """Tokens after the change have exactly the new weights' log-probabilities, those before it the old ones'."""
    weights.restore()
    await vllm_engine.apply(weights.publish())
    asked = [asyncio.create_task(greedy(vllm_engine, processing, tone(1.0, seed), 150)) for seed in range(24)]
    await asyncio.sleep(0.3)
    old = {name: parameter.clone() for name, parameter in weights.model.named_parameters()}
    weights.perturb("multi_modal_projector")
    fetched = weights.publish()
    await vllm_engine.apply(fetched)
    answers = await asyncio.gather(*asked)
    spanning = [(seed, answer) for seed, answer in enumerate(answers) if len(answer.spans) == 2]
    assert spanning
    for seed, answer in spanning[:6]:
        border, clip = answer.spans[1].start, tone(1.0, seed)
        np.testing.assert_allclose(answer.logprobs[border:], expected(weights, processing, answer, clip)[border:], atol=1e-3)
    weights.change(lambda name, parameter: parameter.copy_(old[name]))
    for seed, answer in spanning[:6]:
        border, clip = answer.spans[1].start, tone(1.0, seed)
        np.testing.assert_allclose(answer.logprobs[:border], expected(weights, processing, answer, clip)[:border], atol=1e-3)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype", "unknown unchanged", "changed and unchanged"])
async def test_a_version_of_another_model_is_refused_before_anything_is_touched(
    fault: str, vllm_engine: VllmEngine, weights: Weights, processing: Processing
) -> None:
    weights.restore()
    good = weights.publish()
    await vllm_engine.apply(good)
    before = await greedy(vllm_engine, processing)
    version, unchanged = PolicyVersion(7, 7), []
    with open_version(Path(good.directory)) as opened:
        tensors = [[entry.name, entry.dtype, list(entry.shape), bytes(opened.tensor_bytes(entry))] for entry in opened.manifest.tensors]
    match fault:
        case "missing":
            tensors.pop()
        case "unknown":
            tensors.append(["audio_tower.extra", "F32", [1], b"abcd"])
        case "shape":
            tensors[0][2] = list(reversed(tensors[0][2])) if len(set(tensors[0][2])) > 1 else [*tensors[0][2], 1]
        case "dtype":
            tensors[0][1] = "F64"
        case "unknown unchanged":
            unchanged = ["audio_tower.extra"]
        case "changed and unchanged":
            unchanged = [tensors[0][0]]
    manifest = write_version(weights.root, version, [tuple(one) for one in tensors], 1 << 16, unchanged)
    damaged = Fetched(version, str(directory_of(weights.root, version)), manifest.digest, manifest.size_bytes, 0.0)
    for _ in range(2):
        with pytest.raises(RefusedVersionError, match="nothing was touched"):
            await vllm_engine.apply(damaged)
    assert await greedy(vllm_engine, processing) == before
    await vllm_engine.apply(weights.publish())


async def test_a_worker_trusts_nobody_elses_hash(
    vllm_engine: VllmEngine, weights: Weights, processing: Processing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors.rollout import engine as engine_module

    before = await greedy(vllm_engine, processing)
    damaged = weights.publish()
    path = Path(damaged.directory) / "weights.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(engine_module, "_verify", lambda info: None)
    with pytest.raises(RefusedVersionError, match="nothing was touched"):
        await vllm_engine.apply(damaged)
    assert (await greedy(vllm_engine, processing)).logprobs == before.logprobs
    await vllm_engine.apply(weights.publish())
