"""vLLM as rba runs it: in processes of its own, quiet, the same on CPU and GPU. Edge: vllm.

Import vLLM's names from here: what it reads from the environment has to be set before it is imported.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from protocol.errors import UserError

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default every engine binds itself to the same cores
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads, which a fork would lose
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before vLLM is imported, unless the user has set them."""
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import vllm  # noqa: E402
from vllm import AsyncEngineArgs, SamplingParams  # noqa: E402
from vllm.config import StructuredOutputsConfig, WeightTransferConfig  # noqa: E402
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest  # noqa: E402
from vllm.exceptions import VLLMClientError  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: E402
from vllm.usage.usage_lib import UsageContext  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: E402
from vllm.v1.metrics.loggers import PrometheusStatLogger  # noqa: E402

__all__ = [
    "CLOSE_S",
    "AsyncEngineArgs",
    "AsyncLLM",
    "EngineDeadError",
    "EngineGenerateError",
    "PrometheusStatLogger",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsConfig",
    "StructuredOutputsParams",
    "UsageContext",
    "VLLMClientError",
    "WeightTransferConfig",
    "WeightTransferInitRequest",
    "WeightTransferUpdateRequest",
    "check_extra",
    "current_platform",
    "description",
    "prepare_environment",
]

CLOSE_S = 1.0
"""Time for vLLM's processes to end by themselves; they hold nothing that killing them could damage."""


def description() -> str:
    """Such as ``vllm 0.32.0 (cpu)``."""
    return f"vllm {vllm.__version__} ({current_platform.device_type})"


def prepare_environment(model: Path, tensor_parallel_size: int, cpu_threads: int) -> None:
    """What vLLM and its processes read from the environment when an engine starts."""
    if model.is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if current_platform.is_cpu():
        if tensor_parallel_size == 1:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker lives in the engine core: one process less to import for
        if cpu_threads:
            os.environ["OMP_NUM_THREADS"] = str(cpu_threads)


def check_extra(extra: Mapping[str, Any], where: str, *, fields: Collection[str], known: Collection[str], own: Collection[str]) -> None:
    """Raise `UserError` for a key of ``<where>.extra`` that is one of `own`, among the section's `fields`, or not `known` to vLLM."""
    for key in extra:
        if key in own:
            raise UserError(f"{key} is set by rba itself", where=f"{where}.extra", fix="take it out")
        if key in fields:
            raise UserError(f"{key} has a place of its own", where=f"{where}.extra", fix=f"write it as {where}.{key}")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise UserError(f"vLLM knows no {key!r}", where=f"{where}.extra", fix=f"did you mean {near[0]!r}?" if near else "take it out")
