"""`vllm serve` for tests: a process of its own on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

START_S = 240
QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
SMALL = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}


@contextmanager
def served(checkpoint: Path, settings: Sequence[str], log: Path) -> Iterator[str]:
    """The URL of a server of `checkpoint`, in float32."""
    url = f"http://127.0.0.1:{free_port()}"
    # `vllm serve` wants a distribution that is called vllm, and on a CPU it is not
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--host", "127.0.0.1"]
    command += [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--port",
        url.rpartition(":")[2],
        "--kv-cache-memory-bytes",
        str(1 << 28),
        *settings,
    ]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **QUIET, **SMALL})
    try:
        yield _answering(url, server, log)
    finally:
        members = [*psutil.Process(server.pid).children(recursive=True), server]
        for process in members:
            process.kill()
        server.wait(60)


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


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
