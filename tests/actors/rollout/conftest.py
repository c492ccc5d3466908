"""One checkpoint and one vLLM engine for all tests of a session; starting an engine takes some twenty seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from configs.sampling import RolloutSection
from policies.adapter import Processing, adapter
from protocol.messages import PolicyVersion
from tests.tiny import tiny_checkpoint

if TYPE_CHECKING:
    from actors.rollout.engine import VllmEngine
    from tests.actors.rollout.weights import Weights

START = PolicyVersion(0, 0)
ENGINE = {"enforce_eager": True, "max_model_len": 256, "max_num_seqs": 32, "cpu_kvcache_bytes": 1 << 28}


def section(**extra: object) -> RolloutSection:
    """Settings of an engine that starts as fast as it can."""
    return RolloutSection.model_validate({"sampling": {"max_tokens": 24}, "engine": {**ENGINE, "extra": extra}, "cpu_threads": 1})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("rollout") / "speechlm", hidden=64)  # vLLM's CPU attention takes heads of 32


@pytest.fixture(scope="session")
def processing(checkpoint: Path) -> Processing:
    return adapter("qwen2_audio").open(checkpoint)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engine(checkpoint: Path, processing: Processing) -> AsyncIterator[VllmEngine]:
    from actors.rollout.engine import VllmEngine

    engine = VllmEngine(checkpoint, "float32", section(), processing.stop_token_ids)
    try:
        await engine.start(START)
        yield engine
    finally:
        await engine.close()


@pytest.fixture(scope="session")
def weights(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    from tests.actors.rollout.weights import Weights

    return Weights(checkpoint, tmp_path_factory.mktemp("versions"))
