"""vLLM sees what the policies say, and its processes end with their actor."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import prometheus_client
import psutil
import pytest

from actors.rollout.generation import GenerationRequest
from configs.sampling import RolloutSection
from policies.adapter import Processing
from protocol.errors import UserError
from tests.tiny import tone

if TYPE_CHECKING:
    from actors.rollout.engine import VllmEngine
    from tests.actors.rollout.weights import Weights

pytestmark = pytest.mark.engine
_numbers = itertools.count()


@pytest.mark.asyncio(loop_scope="session")
async def test_prompts_are_those_of_the_policies(vllm_engine: VllmEngine, processing: Processing) -> None:
    """Token for token, and one token for each audio embedding, whatever the clip's length."""
    llm = vllm_engine._llm
    assert llm is not None
    from vllm import SamplingParams

    for samples, prompt in itertools.product([400, 1_000, 16_000, 16_001, 16_159, 27_333, 63_999, 64_000], ["", "answer in one word"]):
        clip = tone(samples / 16_000)[:samples]
        clip = np.pad(clip, (0, samples - len(clip)))
        asked = {"prompt_token_ids": processing.compact_ids(prompt), "multi_modal_data": {"audio": [(clip, 16_000)]}}
        async for output in llm.generate(asked, SamplingParams(max_tokens=1), f"p{next(_numbers)}"):
            assert list(output.prompt_token_ids) == processing.prompt_ids(prompt, clip), samples
    written = {"prompt_token_ids": processing.compact_ids("", "what is two plus two")}
    async for output in llm.generate(written, SamplingParams(max_tokens=1), f"p{next(_numbers)}"):
        assert list(output.prompt_token_ids) == processing.prompt_ids("", instruction="what is two plus two")


@pytest.mark.asyncio(loop_scope="session")
async def test_the_samplers_logprobs_are_those_of_the_model(vllm_engine: VllmEngine, processing: Processing, weights: Weights) -> None:
    """A probe batch: voices of several lengths, sampled at temperature 1, and a written instruction."""
    weights.restore()
    await vllm_engine.apply(weights.publish())
    for seed in range(6):
        clip = tone(0.5 + 0.6 * seed, seed)
        request = GenerationRequest(f"l{seed}", processing.compact_ids("now"), clip, seed, 24)
        answer = await vllm_engine.generate(request)
        found = weights.logprobs(processing, processing.prompt_ids("now", clip), clip, answer.token_ids)
        np.testing.assert_allclose(answer.logprobs, found, atol=1e-3)
    prompt_ids = processing.prompt_ids("", instruction="what is two plus two")
    told = prometheus_client.REGISTRY.get_sample_value
    labels = {"model_name": vllm_engine._arguments.model, "engine": "0"}
    before = told("vllm:generation_tokens_total", labels) or 0.0
    answer = await vllm_engine.generate(GenerationRequest("lw", prompt_ids, None, 1, 24))
    assert told("vllm:generation_tokens_total", labels) == before + len(answer.token_ids), "vLLM counts, for the exporter"
    np.testing.assert_allclose(answer.logprobs, weights.logprobs(processing, prompt_ids, None, answer.token_ids), atol=1e-3)


@pytest.mark.parametrize(
    ("where", "extra", "said"),
    [
        ("engine", {"max_num_seq": 3}, "did you mean 'max_num_seqs'"),
        ("engine", {"model": "x"}, "set by rba itself"),
        ("engine", {"max_num_seqs": 3}, "write it as rollout.engine.max_num_seqs"),
        ("engine", {"enable_prefix_caching": True}, "prefix caching cannot be on"),
        ("sampling", {"min_pp": 0.1}, "did you mean 'min_p'"),
        ("sampling", {"stop": ["."]}, "set by rba itself"),
        ("sampling", {"min_p": 7.0}, "min_p"),
    ],
)
def test_settings_that_vllm_does_not_know_are_the_users_mistake(where: str, extra: dict[str, object], said: str, checkpoint: Path) -> None:
    from actors.rollout.engine import VllmEngine

    with pytest.raises(UserError, match=said):
        VllmEngine(checkpoint, "float32", RolloutSection.model_validate({where: {"extra": extra}}), [2])


def test_further_settings_reach_vllm(checkpoint: Path) -> None:
    from actors.rollout.engine import engine_arguments, sampling_parameters

    chosen = RolloutSection.model_validate(
        {"engine": {"extra": {"mm_processor_cache_gb": 0.5, "block_size": 64}}, "sampling": {"top_k": 5, "extra": {"min_p": 0.1}}}
    )
    arguments = engine_arguments(checkpoint, "float32", chosen)
    assert (arguments.mm_processor_cache_gb, arguments.block_size, arguments.kv_cache_memory_bytes) == (0.5, 64, 1 << 30)
    parameters = sampling_parameters(chosen, [2, 0])
    assert (parameters.top_k, parameters.min_p, parameters.stop_token_ids, parameters.logprobs) == (5, 0.1, [2, 0], 0)


STARTS_AN_ENGINE = """
import asyncio, sys, threading
from pathlib import Path

async def main(engine):
    from protocol.messages import PolicyVersion
    starting = asyncio.create_task(engine.start(PolicyVersion(0, 0)))
    if sys.argv[2] == "close early":
        while not __import__("multiprocessing").active_children():
            await asyncio.sleep(0.01)
        print("starting", flush=True)
        await asyncio.sleep(1)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await engine.close()
        return
    await starting
    print("started", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    from actors.rollout.engine import VllmEngine
    from tests.actors.rollout.conftest import section
    engine = VllmEngine(Path(sys.argv[1]), "float32", section(), [2])
    thread = threading.Thread(target=lambda: asyncio.run(main(engine)))
    thread.start()
    thread.join()
"""


def engine_processes(of: int) -> list[psutil.Process]:
    try:
        children = psutil.Process(of).children(recursive=True)
        return [child for child in children if {"spawn_main", "EngineCore"} & set(re.findall(r"\w+", " ".join(child.cmdline())))]
    except psutil.NoSuchProcess:
        return []


def started_elsewhere(checkpoint: Path, tmp_path: Path, how: str) -> subprocess.Popen[str]:
    """A process that starts an engine in a thread that is not its main one."""
    script = tmp_path / "starts_an_engine.py"
    script.write_text(STARTS_AN_ENGINE)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, str(script), str(checkpoint), how], stdout=subprocess.PIPE, text=True, env=environment)


def test_no_engine_outlives_a_killed_actor(checkpoint: Path, tmp_path: Path) -> None:
    process = started_elsewhere(checkpoint, tmp_path, "run")
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "started\n":
        assert line, "it never started"
    engines = engine_processes(process.pid)
    assert engines
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    gone, alive = psutil.wait_procs(engines, timeout=10)
    for one in alive:
        one.kill()
    assert not alive


def test_an_engine_that_still_starts_can_be_closed(checkpoint: Path, tmp_path: Path) -> None:
    process = started_elsewhere(checkpoint, tmp_path, "close early")
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    engines = engine_processes(process.pid)
    assert engines
    assert process.wait(60) == 0
    assert not any(one.is_running() for one in engines)
