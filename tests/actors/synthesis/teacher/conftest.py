"""The quickstart's teacher in process, and behind vLLM's own server; each starts once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import quickstart
from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Teacher
from configs.teaching import LanguageModelSection
from tests.vllm_server import served

CHECKPOINT = Path(quickstart.__file__).parent / "checkpoints" / "teacher"


def section(**settings: object) -> LanguageModelSection:
    """An engine that starts as fast as it can."""
    engine = {"max_model_len": 256, "dtype": "float32", "enforce_eager": True, "cpu_kvcache_bytes": 1 << 28, "cpu_threads": 1}
    return LanguageModelSection.model_validate({"model": str(CHECKPOINT), **engine, **settings})


@pytest.fixture(scope="session")
def vllm_teacher() -> Iterator[Teacher]:
    with open_teacher(section()) as teacher:
        yield teacher


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` of the quickstart's teacher."""
    settings = ["--max-model-len", "256", "--generation-config", "vllm", "--served-model-name", "tiny"]
    compact = {"backend": "xgrammar", "disable_any_whitespace": True}  # or so small a model pads for ever
    settings += ["--structured-outputs-config", json.dumps(compact)]
    with served(CHECKPOINT, settings, tmp_path_factory.mktemp("serve") / "log.txt") as url:
        yield url + "/v1"
