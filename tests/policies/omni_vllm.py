"""Asks vLLM for greedy answers, by the checkpoint's weights and then by a new policy version, and writes them down.

``python -m tests.policies.omni_vllm OUT CHECKPOINT VERSIONS``, a process of its own for what it imports.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from actors.rollout.engine import VllmEngine
from actors.rollout.generation import GenerationRequest
from policies.adapter import adapter
from tests.actors.rollout.conftest import START, section
from tests.actors.rollout.weights import Weights
from tests.policies.omni import INSTRUCTION, LENGTHS_S, PROMPT
from tests.tiny import tone

TOKENS = 12


async def answers(engine: VllmEngine, processing: Any, name: str) -> list[dict[str, Any]]:
    """One for each clip, and one for a written instruction."""
    asked = [(processing.compact_ids(PROMPT), tone(length_s, seed)) for seed, length_s in enumerate(LENGTHS_S)]
    requests = [GenerationRequest(f"{name}{number}", *each, 0, TOKENS, greedy=True) for number, each in enumerate(asked)]
    requests.append(GenerationRequest(f"{name}-written", processing.compact_ids("", INSTRUCTION), None, 0, TOKENS, greedy=True))
    found = [await engine.generate(request) for request in requests]
    return [{"token_ids": one.token_ids, "logprobs": one.logprobs, "prompt_tokens": one.prompt_tokens} for one in found]


async def main(checkpoint: Path, versions: Path) -> dict[str, Any]:
    """Start, ask, apply, ask."""
    processing = adapter("qwen2_5_omni").open(checkpoint)
    engine = VllmEngine(checkpoint, "float32", section(), processing.stop_token_ids)
    try:
        await engine.start(START)
        found = {"start": await answers(engine, processing, "start")}
        weights = Weights(checkpoint, versions, "qwen2_5_omni")
        weights.perturb("", scale=0.05)
        await engine.apply(weights.publish())
        found["applied"] = await answers(engine, processing, "applied")
    finally:
        await engine.close()
    return found


if __name__ == "__main__":
    told = asyncio.run(main(Path(sys.argv[2]), Path(sys.argv[3])))
    Path(sys.argv[1]).write_text(json.dumps(told))
