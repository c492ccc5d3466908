"""The pause in which a policy version is applied, beside vLLM's own loading of the same tensors from files. Edge: vllm.

    python -m benchmarks.weight_pause [--json FILE]

One real engine with the quickstart's model and requests under way; both sides take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from actors.rollout.engine import VllmEngine
from actors.rollout.generation import GenerationRequest
from benchmarks.command import command
from benchmarks.rows import row
from configs.sampling import RolloutSection
from policies.adapter import adapter
from protocol.messages import PolicyVersion
from protocol.weights.files import directory_of
from protocol.weights.messages import Fetched
from protocol.weights.transfer import FolderPublisher
from quickstart.assets import provide

MARGIN_S = 0.03
"""vLLM's `keep` pause alone sleeps for 20 ms."""
REPEATS = 9
REQUESTS = 8
SECTION = {
    "sampling": {"max_tokens": 32},
    "engine": {"enforce_eager": True, "max_model_len": 192, "max_num_seqs": 32, "cpu_kvcache_bytes": 1 << 28},
    "cpu_threads": 1,
}


def publish(checkpoint: Path, root: Path, step: int) -> Fetched:
    """The checkpoint's own tensors as a version, as a node fetcher would leave it."""
    version = PolicyVersion(0, step)
    with safe_open(checkpoint / "model.safetensors", framework="np") as opened:
        tensors = [(name, "F32", list((value := opened.get_tensor(name)).shape), value.tobytes()) for name in sorted(opened.keys())]
    manifest = FolderPublisher(root, 4 << 20).publish(version, tensors)
    return Fetched(version, str(directory_of(root, version)), manifest.digest, manifest.size_bytes, 0.0)


async def turns(checkpoint: Path, root: Path) -> list[tuple[float, float]]:
    """Seconds of (our pause, vLLM's loading) of each turn."""
    processing = adapter("qwen2_audio").open(checkpoint)
    engine = VllmEngine(checkpoint, "float32", RolloutSection.model_validate(SECTION), processing.stop_token_ids)
    asking: list[asyncio.Task[None]] = []
    try:
        await engine.start(PolicyVersion(0, 0))
        ids, samples = processing.compact_ids(""), np.random.default_rng(0).normal(scale=0.1, size=32_000).astype(np.float32)

        async def ask(number: int) -> None:
            asked = 0
            while True:
                await engine.generate(GenerationRequest(f"{number}-{asked}", ids, samples, asked, 32, greedy=False))
                asked += 1

        found = []
        for turn in range(REPEATS + 1):
            asking = [asyncio.create_task(ask(REQUESTS * turn + number)) for number in range(REQUESTS)]
            fetched = await asyncio.to_thread(publish, checkpoint, root, turn + 1)
            pause_s = await engine.apply(fetched)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            started = time.perf_counter()
            await engine._started().collective_rpc("reload_weights")  # noqa: SLF001 - the peer: vLLM's way to load a checkpoint again
            found.append((pause_s, time.perf_counter() - started))
        return found[1:]
    finally:
        for task in asking:
            task.cancel()
        await engine.close()


def measure() -> list[dict[str, Any]]:
    """The row of the pause."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found = asyncio.run(turns(provide("speechlm"), Path(folder)))
    pause_s, load_s = (statistics.median(side) for side in zip(*found, strict=True))
    return [
        row(f"pause, {REQUESTS} requests under way", "ms", 1e3 * pause_s, "vLLM's own load + 30 ms", 1e3 * (load_s + MARGIN_S), 1.0),
        row("of it beside the load alone", "ms", 1e3 * pause_s, "vLLM's own load", 1e3 * load_s, None),
    ]


if __name__ == "__main__":
    command("weight-pause", __doc__, measure)
