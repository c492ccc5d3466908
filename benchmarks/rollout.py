"""What the rollout actor's loop costs: audio, sampling, scoring over HTTP, pairing and sending, beside vLLM alone on the same requests.

    python -m benchmarks.rollout [--json FILE]

Both sides use one engine and take turns; vLLM alone gets all the requests at once. Beside them `generate` of transformers on the same
prompts, in batches as large as the engine's. The learner's link and the reward server are processes of their own. On two cores all of it
shares what a cluster has apart, which counts against the loop. Cases: the quickstart's model with its BLEU server and with its reward
model, and a larger model of random weights, whose answers are as long as they may be.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from actors.rewards.client import RewardClient
from actors.rollout.actor import Actor
from actors.rollout.audio import AudioLibrary
from actors.rollout.engine import VllmEngine
from actors.rollout.gauges import Gauges
from actors.rollout.generation import Generated, GenerationRequest
from actors.rollout.groups import GroupRunner
from actors.rollout.weight_engine import checkpoint_shapes, checkpoint_tensors
from benchmarks.command import command
from benchmarks.desk import Desk
from benchmarks.rows import row, table
from benchmarks.speechlm import Size, write_checkpoint
from configs.loader import load
from configs.sampling import RewardsSection
from configs.schema import RunConfig
from learner.publish import checked
from ops.assets import resolve
from policies.adapter import Processing, adapter
from protocol.dataset import DataSet
from protocol.links.actor import ActorLink
from protocol.messages import InstructionGroup, PolicyVersion
from protocol.metrics import Metrics
from protocol.weights.files import directory_of, write_version
from protocol.weights.messages import Fetched

RECIPE = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
VERSION = PolicyVersion(0, 0)
CHUNK_BYTES = 4 << 20
REPEATS = 3
TARGET = 0.9
GPU_TARGET = 4.0
CONCURRENT = 32
"""Sequences that the engine works on at once; the actor holds twice as many, so that groups which are scored leave no gap."""


@dataclass(frozen=True)
class Case:
    """What is sampled from."""

    name: str
    scorer: str
    size: Size | None = None
    """Of a model of random weights; by default the quickstart's own model."""
    max_tokens: int = 32
    groups: int = 64
    """Sampled at each turn."""


CASES = (
    Case("quickstart's model, BLEU", "bleu"),
    Case("quickstart's model, reward model", "seqcls"),
    Case("26 M, 64 tokens, BLEU", "bleu", Size(384, 6, 6, 4096), 64, 24),
)


class Recorder:
    """An engine that remembers what it was asked (a `GenerationEngine`)."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.requests: list[GenerationRequest] = []
        self.start, self.apply, self.close = engine.start, engine.apply, engine.close
        self.raise_if_failed = engine.raise_if_failed
        self.description = engine.description

    async def generate(self, request: GenerationRequest) -> Generated:
        """Sample one answer."""
        self.requests.append(request)
        return await self._engine.generate(request)


@dataclass
class Sides:
    """Tokens per second of each side, turn by turn."""

    loop: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)


# --- the sides ----------------------------------------------------------------------------------------------


async def loop_tokens_per_s(desk: Desk, gauges: Gauges, groups: Sequence[InstructionGroup]) -> float:
    """The actor's loop: from the offer of the groups to the last result at the learner."""
    before = gauges.tokens
    desk.lease(groups)
    seconds = await asyncio.to_thread(desk.answered)
    return (gauges.tokens - before) / seconds


async def vllm_tokens_per_s(engine: VllmEngine, requests: Sequence[GenerationRequest]) -> float:
    """The engine alone, given everything at once."""
    started_s = time.perf_counter()
    answers = await asyncio.gather(*(engine.generate(request) for request in requests))
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - started_s)


class Transformers:
    """`generate` of Hugging Face's model, in padded batches."""

    def __init__(self, checkpoint: Path, dtype: str, processing: Processing, max_tokens: int) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(1)  # as many as the engine's
        self._model: Any = adapter("qwen2_audio").load_model(checkpoint, dtype).to(self._device).eval()
        self._processing, self._max_tokens = processing, max_tokens

    def tokens_per_s(self, requests: Sequence[GenerationRequest], prompt: str) -> float:
        """All requests, `CONCURRENT` at a time, longest prompts first."""
        started_s, tokens = time.perf_counter(), 0
        inputs = sorted(
            ((self._processing.prompt_ids(prompt, each.samples), each.samples) for each in requests), key=lambda pair: -len(pair[0])
        )
        for start in range(0, len(inputs), CONCURRENT):
            tokens += self._batch(inputs[start : start + CONCURRENT])
        return tokens / (time.perf_counter() - started_s)

    def _batch(self, inputs: Sequence[tuple[list[int], Any]]) -> int:
        processing, longest = self._processing, max(len(ids) for ids, _ in inputs)
        rows = np.full((len(inputs), longest), processing.pad_token_id)
        for number, (ids, _) in enumerate(inputs):
            rows[number, longest - len(ids) :] = ids
        mask = np.arange(longest)[None] >= np.array([[longest - len(ids)] for ids, _ in inputs])
        features, frames = processing.features([samples for _, samples in inputs])
        put: dict[str, Any] = {"device": self._device}
        with torch.inference_mode():
            answers = self._model.generate(
                input_ids=torch.as_tensor(rows, **put),
                attention_mask=torch.as_tensor(mask, **put).long(),
                input_features=torch.as_tensor(features, **put).to(self._model.dtype),
                feature_attention_mask=torch.as_tensor(frames, **put),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=self._max_tokens,
                eos_token_id=processing.stop_token_ids,
                pad_token_id=processing.pad_token_id,
            )[:, longest:]
        ended = torch.isin(answers, torch.tensor(processing.stop_token_ids, **put)).int().cumsum(1)
        return int((ended.cumsum(1) <= 1).sum())  # up to and with the first token that ends the answer


# --- one case -----------------------------------------------------------------------------------------------


def config_of(case: Case, folder: Path) -> RunConfig:
    """The quickstart's recipe with the case's model."""
    config = resolve(load(RECIPE))
    if case.size is not None:
        config.model.path = str(write_checkpoint(folder / "model", case.size, 4))
    config.rollout.sampling.max_tokens = case.max_tokens
    config.rollout.engine.max_num_seqs = CONCURRENT
    config.rollout.capacity_groups = 2 * CONCURRENT // 4
    config.rewards.scorer = case.scorer  # type: ignore[assignment]
    return config


def _serve_rewards(section: str, pipe: Connection) -> None:
    from actors.rewards.server import RewardServer

    server = RewardServer(RewardsSection.model_validate_json(section), "127.0.0.1", 0)
    pipe.send(server.url)
    server.run()


@asynccontextmanager
async def reward_server(config: RunConfig) -> AsyncIterator[str]:
    """The URL of a server in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve_rewards, args=(config.rewards.model_dump_json(), theirs), daemon=True)
    process.start()
    try:
        yield await asyncio.to_thread(ours.recv)
    finally:
        process.terminate()
        process.join(10)


def fetched(checkpoint: Path, folder: Path) -> Fetched:
    """The checkpoint's own weights as a policy version that lies on this node."""
    names = set(checkpoint_shapes(checkpoint))
    manifest = write_version(folder, VERSION, checked(checkpoint_tensors(checkpoint, names), names), CHUNK_BYTES)
    return Fetched(VERSION, str(directory_of(folder, VERSION)), manifest.digest, manifest.size_bytes, 0.0)


async def compare(case: Case, folder: Path) -> list[dict[str, Any]]:
    """The rows of one case."""
    config = config_of(case, folder)
    checkpoint = Path(config.model.path)
    data = DataSet.open(config.data.train)
    processing = adapter(config.model.adapter).open(checkpoint)
    metrics = Metrics("rollout", "rollout-0")
    gauges, sides = Gauges(metrics), Sides()
    version = fetched(checkpoint, folder / "versions")

    async def fetch(_: PolicyVersion) -> Fetched:
        return version

    engine = VllmEngine(checkpoint, config.model.dtype, config.rollout, processing.stop_token_ids, processing.sampling_rate_hz)
    await engine.start(VERSION)
    try:
        async with reward_server(config) as url:
            with Desk(VERSION) as desk:
                recorder = Recorder(engine)
                rewards = RewardClient([url], config.rewards, metrics)
                runner = GroupRunner(config, recorder, processing, AudioLibrary([data], config.data.max_audio_s), rewards)
                capacity = config.rollout.capacity_groups
                link = ActorLink(desk.endpoint, "rollout-0", 0, capacity, engine=engine.description)
                actor = Actor(link, fetch, recorder, runner, gauges, capacity)
                link.start()
                working = asyncio.create_task(actor.work())
                await loop_tokens_per_s(desk, gauges, data.groups[: case.groups])  # warm
                plain = Transformers(checkpoint, config.model.dtype, processing, case.max_tokens)
                for _ in range(REPEATS):
                    recorder.requests.clear()
                    sides.loop.append(await loop_tokens_per_s(desk, gauges, data.groups[: case.groups]))
                    sides.alone.append(await vllm_tokens_per_s(engine, recorder.requests))
                    sides.plain.append(await asyncio.to_thread(plain.tokens_per_s, recorder.requests, data.groups[0].prompt))
                actor.stop("measured")
                await working
                await asyncio.to_thread(link.close)
                await rewards.aclose()
    finally:
        await engine.close()
        metrics.close()
    ours = median(sides.loop)
    ratio = median(loop / alone for loop, alone in zip(sides.loop, sides.alone, strict=True))
    plain_target = GPU_TARGET if torch.cuda.is_available() else None
    return [
        row(case.name, "tokens/s", ours, "vLLM alone", ours / ratio, TARGET),
        row(case.name, "tokens/s", ours, "transformers generate", median(sides.plain), plain_target),
    ]


def measure() -> list[dict[str, Any]]:
    """Every row."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            rows += asyncio.run(compare(case, Path(folder)))
        print("\n".join(table(rows[-2:]).splitlines()[-2:]), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    command("rollout", __doc__, measure)
