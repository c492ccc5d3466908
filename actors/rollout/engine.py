"""The engine that rollout actors sample with: vLLM's AsyncLLM, the same on CPU and GPU. Edge: vllm.

vLLM runs in processes of its own: an engine core, and on a CPU or with several GPUs one worker a rank.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import time
from pathlib import Path
from typing import Any

from actors.rollout.generation import (
    EngineFailedError,
    Generated,
    GenerationRequest,
    RefusedVersionError,
    UnusableInputError,
)
from actors.rollout.plugin import BACKEND
from actors.vllm import (
    CLOSE_S,
    AsyncEngineArgs,
    AsyncLLM,
    EngineDeadError,
    EngineGenerateError,
    PrometheusStatLogger,
    RequestOutputKind,
    SamplingParams,
    VLLMClientError,
    WeightTransferConfig,
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
    check_extra,
    current_platform,
    description,
    prepare_environment,
)
from configs.sampling import EngineSection, RolloutSection, SamplingSection
from protocol.errors import UserError
from protocol.messages import PolicyVersion, VersionSpan
from protocol.weights.files import DamagedVersionError, open_version
from protocol.weights.messages import Fetched

OWN_ENGINE_ARGUMENTS = {"model", "tokenizer", "weight_transfer_config", "generation_config"}
OWN_SAMPLING = {"n", "stop", "stop_token_ids", "ignore_eos", "logprobs", "detokenize", "output_kind", "seed", "skip_special_tokens"}
"""What rba's own bookkeeping rests on: answers end with an end-of-sequence token, and come with their log-probabilities."""
ATTEMPTS = 3
"""Tries of one request, for vLLM's multi-modal cache (off by default) may lose an audio on a reset and ask for it again."""


class VllmEngine:
    """A `GenerationEngine`."""

    def __init__(self, model: Path, dtype: str, section: RolloutSection, stop_token_ids: list[int], sampling_rate_hz: int = 16_000) -> None:
        """`model` is a checkpoint folder; `stop_token_ids` end an answer. Raises `UserError` for settings that vLLM does not know."""
        self._model, self._section, self._sampling_rate_hz = model, section, sampling_rate_hz
        self._arguments = engine_arguments(model, dtype, section)
        self._sampled = sampling_parameters(section, stop_token_ids)
        self._greedy = SamplingParams(temperature=0.0, **_own_sampling(stop_token_ids))
        self._llm: AsyncLLM | None = None
        self._closed = False
        self._older_children: set[multiprocessing.process.BaseProcess] | None = None
        self.start_seconds = 0.0

    @property
    def description(self) -> str:
        """Such as ``vllm 0.32.0 (cpu)``."""
        return description()

    async def start(self, version: PolicyVersion) -> None:
        """Start vLLM's processes: eight seconds on a quiet CPU core, most of them imports."""
        started_s = time.monotonic()
        prepare_environment(self._model, self._section.engine.tensor_parallel_size, self._section.cpu_threads)
        self._older_children = set(multiprocessing.active_children())
        self._llm = llm = await asyncio.to_thread(self._build)
        await llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
        await llm.update_weight_version(str(version))
        self.start_seconds = time.monotonic() - started_s

    def _build(self) -> AsyncLLM:
        try:
            llm = AsyncLLM.from_engine_args(self._arguments, stat_loggers=[PrometheusStatLogger])  # and no lines of log
        except ValueError as error:  # pydantic's and vLLM's own
            raise UserError(str(error), where="rollout.engine", fix="correct the setting that vLLM names") from error
        if self._closed:  # nobody waits for this thread any more
            llm.shutdown(CLOSE_S)
            raise EngineFailedError("closed while it started")
        return llm

    async def generate(self, request: GenerationRequest) -> Generated:
        """Sample one answer."""
        prompt: dict[str, Any] = {"prompt_token_ids": request.prompt_ids}
        if request.samples is not None:
            prompt["multi_modal_data"] = {"audio": [(request.samples, self._sampling_rate_hz)]}
        parameters = (self._greedy if request.greedy else self._sampled).clone()
        parameters.max_tokens, parameters.seed = request.max_tokens, request.seed
        for attempt in range(ATTEMPTS):
            output = await self._final_output(prompt, parameters, f"{request.request_id}/{attempt}")
            answer = output.outputs[0]
            if answer.finish_reason in {"stop", "length", "abort"}:
                return Generated(
                    token_ids=list(answer.token_ids),
                    logprobs=[step[token].logprob for step, token in zip(answer.logprobs or [], answer.token_ids, strict=True)],
                    text=answer.text,
                    finish_reason=answer.finish_reason,
                    spans=[VersionSpan(PolicyVersion.parse(span.version), span.start, span.end) for span in answer.weight_versions or []],
                    prompt_tokens=len(output.prompt_token_ids),
                )
        raise EngineFailedError(f"request {request.request_id} ended {ATTEMPTS} times with {answer.finish_reason!r}")

    async def _final_output(self, prompt: dict[str, Any], parameters: SamplingParams, request_id: str) -> Any:
        try:
            async for output in self._started().generate(prompt, parameters, request_id):
                if output.finished:
                    return output
        except VLLMClientError as error:
            raise UnusableInputError(str(error)) from error
        except EngineGenerateError as error:
            if isinstance(error.__cause__, ValueError):
                raise UnusableInputError(str(error.__cause__)) from error
            raise EngineFailedError(f"{error.__cause__ or error}") from error
        except EngineDeadError as error:
            raise EngineFailedError("vLLM's engine core has died") from error
        raise EngineFailedError(f"vLLM gave no answer to {request_id}")

    async def apply(self, fetched: Fetched) -> float:
        """Check while generating, then reload within one pause."""
        llm = self._started()
        info = {"directory": fetched.directory, "policy_version": str(fetched.policy_version), "digest": fetched.digest}
        try:
            await self._check(llm, info)
        except RefusedVersionError:
            await self._end_session(llm)
            raise
        paused_s = time.monotonic()
        # Everything that old weights computed goes: embeddings of audio, keys and values. Answers under way are read again by the new ones.
        await llm.pause_generation(mode="keep", clear_cache=True)
        try:
            await llm.update_weights(WeightTransferUpdateRequest(update_info={**info, "stage": "apply"}))
            await llm.finish_weight_update(weight_version=info["policy_version"])
        except Exception as error:
            if not self._is_refusal(error):
                raise EngineFailedError(f"policy version {info['policy_version']} could not be applied: {error}") from error
            await llm.resume_generation()
            raise RefusedVersionError(str(error)) from error
        await llm.resume_generation()
        return time.monotonic() - paused_s

    async def _check(self, llm: AsyncLLM, info: dict[str, str]) -> None:
        """Have the workers map and hash the version, hash it here meanwhile, and so know that all of them have finished."""
        try:
            await asyncio.to_thread(_open_and_compare, info)
            await llm.start_weight_update()
            await llm.update_weights(WeightTransferUpdateRequest(update_info={**info, "stage": "map"}))
            await asyncio.to_thread(_verify, info)
        except DamagedVersionError as error:
            raise RefusedVersionError(str(error)) from error
        except EngineDeadError as error:
            raise EngineFailedError("vLLM's engine core has died") from error
        except RefusedVersionError:
            raise
        except Exception as error:
            if self._is_refusal(error):
                raise RefusedVersionError(str(error)) from error
            raise EngineFailedError(f"policy version {info['policy_version']} could not be mapped: {error}") from error

    def _is_refusal(self, error: Exception) -> bool:
        """With several workers, vLLM loses track of their answers once one of them raises."""
        from actors.rollout.weight_engine import REFUSED

        return REFUSED in str(error) and self._section.engine.tensor_parallel_size == 1

    async def _end_session(self, llm: AsyncLLM) -> None:
        """Close the update that was begun; a worker that refused it has closed it already."""
        if self._section.engine.tensor_parallel_size == 1:
            try:
                await llm.finish_weight_update()
            except EngineDeadError as error:
                raise EngineFailedError("vLLM's engine core has died") from error
            except Exception as error:
                if "without a matching start_weight_update" not in str(error):
                    raise EngineFailedError(f"an update could not be called off: {error}") from error

    def raise_if_failed(self) -> None:
        """Raise `EngineFailedError` when vLLM has died."""
        if self._llm is not None and self._llm.errored:
            raise EngineFailedError("vLLM's engine core has died; its last words are in this process's output")

    async def close(self) -> None:
        """End vLLM's processes. While they still start, they are killed."""
        self._closed = True
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, CLOSE_S)
        elif self._older_children is not None:
            for child in set(multiprocessing.active_children()) - self._older_children:
                child.kill()
                await asyncio.to_thread(child.join, CLOSE_S)

    def _started(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineFailedError("the engine is closed" if self._closed else "the engine is not started")
        return self._llm


def engine_arguments(model: Path, dtype: str, section: RolloutSection) -> AsyncEngineArgs:
    """Settings of vLLM: rba's defaults, the section's keys, then `rollout.engine.extra`. Raises `UserError`."""
    engine = section.engine
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    check_extra(engine.extra, "rollout.engine", fields=EngineSection.model_fields, known=known, own=OWN_ENGINE_ARGUMENTS)
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": dtype,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enforce_eager": engine.enforce_eager,
        "generation_config": "vllm",  # sampling is the run's business, not the checkpoint's
        "limit_mm_per_prompt": {"audio": 1, "image": 0, "video": 0},  # a vision tower is then neither built nor planned for
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,  # voices are heard once per epoch, and each policy version would start from an empty cache
        "disable_log_stats": True,
        "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
    }
    if engine.extra.get("enable_prefix_caching"):
        raise UserError(
            "prefix caching cannot be on: vLLM 0.32 dies when audio is under way while its caches are cleared for a new policy version",
            where="rollout.engine.extra",
            fix="take enable_prefix_caching out; prompts of different audio share next to nothing",
        )
    if current_platform.is_cpu():
        arguments["kv_cache_memory_bytes"] = engine.cpu_kvcache_bytes
    try:
        return AsyncEngineArgs(**{**arguments, **engine.extra})
    except ValueError as error:
        raise UserError(str(error), where="rollout.engine", fix="correct the setting that vLLM names") from error


def sampling_parameters(section: RolloutSection, stop_token_ids: list[int]) -> SamplingParams:
    """How training answers are sampled. Raises `UserError`."""
    sampling = section.sampling
    known = set(SamplingParams.__struct_fields__)
    check_extra(sampling.extra, "rollout.sampling", fields=SamplingSection.model_fields, known=known, own=OWN_SAMPLING)
    try:
        return SamplingParams(
            **{"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, **sampling.extra},
            **_own_sampling(stop_token_ids),
        )
    except (ValueError, VLLMClientError) as error:
        raise UserError(str(error), where="rollout.sampling", fix="correct the setting that vLLM names") from error


def _own_sampling(stop_token_ids: list[int]) -> dict[str, Any]:
    return {"logprobs": 0, "stop_token_ids": list(stop_token_ids), "output_kind": RequestOutputKind.FINAL_ONLY}


def _open_and_compare(info: dict[str, str]) -> None:
    with open_version(Path(info["directory"])) as version:
        manifest = version.manifest
        if str(manifest.policy_version) != info["policy_version"] or manifest.digest != info["digest"]:
            raise RefusedVersionError(
                f"{info['directory']} holds {manifest.policy_version} ({manifest.digest}), not {info['policy_version']}"
            )


def _verify(info: dict[str, str]) -> None:
    with open_version(Path(info["directory"])) as version:
        version.verify()
