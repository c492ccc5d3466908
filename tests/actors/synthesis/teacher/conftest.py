"""The quickstart's teacher in process, and behind vLLM's own server; each starts once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

import quickstart
from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Teacher
from configs.teaching import LanguageModelSection

CHECKPOINT = Path(quickstart.__file__).parent / "checkpoints" / "teacher"
START_S = 240


def section(**settings: object) -> LanguageModelSection:
    """An engine that starts as fast as it can."""
    engine = {"max_model_len": 256, "dtype": "float32", "enforce_eager": True, "cpu_kvcache_bytes": 1 << 28, "cpu_threads": 1}
    return LanguageModelSection.model_validate({"model": str(CHECKPOINT), **engine, **settings})


@pytest.fixture(scope="session")
def vllm_teacher() -> Iterator[Teacher]:
    with open_teacher(section()) as teacher:
        yield teacher


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` of the quickstart's teacher."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = "--host 127.0.0.1 --dtype float32 --enforce-eager --max-model-len 256 --generation-config vllm --served-model-name tiny"
    # `vllm serve` wants a distribution that is called vllm, and on a CPU it is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(CHECKPOINT), *settings.split()]
    compact = {"backend": "xgrammar", "disable_any_whitespace": True}  # or so small a model pads for ever
    command += ["--structured-outputs-config", json.dumps(compact)]
    command += ["--port", url.rpartition(":")[2], "--kv-cache-memory-bytes", str(1 << 28)]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    quiet |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **quiet})
    try:
        yield _answering(url, server, log) + "/v1"
    finally:
        members = [*psutil.Process(server.pid).children(recursive=True), server]
        for process in members:
            process.kill()
        server.wait(30)


def _answering(url: str, server: subprocess.Popen[bytes], log: Path) -> str:
    transport = httpx.HTTPTransport(retries=0)
    with httpx.Client(transport=transport) as client:
        waited = psutil.Process(server.pid).create_time() + START_S
        while server.poll() is None and time.time() < waited:
            try:
                if client.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                    return url
            except httpx.TransportError:
                try:
                    server.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
    raise RuntimeError(f"the server does not answer: {log.read_text()[-2000:]}")
