"""A teacher in this process: one vLLM engine that all threads share. Edge: vllm, transformers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.loop import Loop, together
from actors.synthesis.teacher.teacher import Generation, Request, Teacher, TeacherFailedError
from actors.synthesis.teacher.tokenizer import Tokenizer, open_tokenizer
from actors.vllm import (
    CLOSE_S,
    AsyncEngineArgs,
    AsyncLLM,
    EngineDeadError,
    EngineGenerateError,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsConfig,
    StructuredOutputsParams,
    UsageContext,
    VLLMClientError,
    check_extra,
    current_platform,
    description,
    prepare_environment,
)
from configs.teaching import LanguageModelSection
from protocol.errors import UserError

OWN_ARGUMENTS = {"model", "tokenizer", "generation_config"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Engine:
    loop: Loop
    llm: AsyncLLM
    tokenizer: Tokenizer


class VllmTeacher(Teacher):
    """vLLM's AsyncLLM on a thread of its own. Each request is one sequence with its own seed."""

    def __init__(self, section: LanguageModelSection, where: str = "teacher") -> None:
        """`section.model` is a checkpoint folder or a Hub name; `where` is the section's key. Raises `UserError`."""
        super().__init__()
        self._section, self._where = section, where
        self._arguments = engine_arguments(section, where)
        self._numbers = itertools.count()
        self._engine: _Engine | None = None

    @property
    def description(self) -> str:
        """The engine and its model."""
        return f"{description()}, {self._section.model}"

    def _start(self) -> None:
        section = self._section
        prepare_environment(Path(section.model), section.tensor_parallel_size, section.cpu_threads)
        tokenizer, loop = open_tokenizer(section, self._where), Loop("teacher")
        try:
            self._engine = _Engine(loop, loop.run(self._build()), tokenizer)
        except BaseException:
            loop.close()
            raise

    async def _build(self) -> AsyncLLM:
        try:
            # vLLM's own limits for `LLM.generate`: as many at once as the machine is good for, since nobody waits for the first token
            return AsyncLLM.from_engine_args(self._arguments, usage_context=UsageContext.LLM_CLASS)
        except ValueError as error:  # pydantic's and vLLM's own
            raise UserError(str(error), where=self._where, fix="correct the setting that vLLM names") from error
        except RuntimeError as error:
            raise TeacherFailedError(
                f"vLLM did not start {self._section.model}: {error}; its last words are in the output above"
            ) from error

    def _abandon(self) -> None:
        self._started().loop.abandon()

    def _stop(self) -> None:
        engine, self._engine = self._started(), None
        engine.loop.close()
        engine.llm.shutdown(CLOSE_S)

    def _started(self) -> _Engine:
        if self._engine is None:
            raise TeacherFailedError("the teacher is closed")
        return self._engine

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        """One generation a request (see `Teacher`)."""
        engine = self._started()
        prepared = [(prompt_ids(request, engine.tokenizer), sampling_parameters(request)) for request in requests]
        return engine.loop.run(together(self._one(engine.llm, ids, parameters) for ids, parameters in prepared))

    async def _one(self, llm: AsyncLLM, prompt_ids: list[int], parameters: SamplingParams) -> Generation:
        try:
            async for output in llm.generate({"prompt_token_ids": prompt_ids}, parameters, f"teacher/{next(self._numbers)}"):
                if output.finished:
                    answer = output.outputs[0]
                    if answer.finish_reason in {"stop", "length"}:
                        return Generation(answer.text, len(answer.token_ids), answer.finish_reason)
                    raise TeacherFailedError(f"vLLM ended a request with {answer.finish_reason!r}")
        except VLLMClientError as error:
            return Generation("", 0, "refused", str(error))
        except EngineGenerateError as error:
            if isinstance(error.__cause__, ValueError):
                return Generation("", 0, "refused", str(error.__cause__))
            raise TeacherFailedError(f"vLLM failed: {error.__cause__ or error}") from error
        except EngineDeadError as error:
            raise TeacherFailedError("vLLM's engine core has died; its last words are in the output above") from error
        raise TeacherFailedError("vLLM gave no answer")


def engine_arguments(section: LanguageModelSection, where: str) -> AsyncEngineArgs:
    """Settings of vLLM: rba's defaults, the section's keys, then its `extra`. Raises `UserError`."""
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    check_extra(section.extra, where, fields=LanguageModelSection.model_fields, known=known, own=OWN_ARGUMENTS)
    arguments: dict[str, Any] = {
        "model": section.model,
        "dtype": section.dtype,
        "tensor_parallel_size": section.tensor_parallel_size,
        "max_model_len": section.max_model_len,
        "gpu_memory_utilization": section.gpu_memory_utilization,
        "enforce_eager": section.enforce_eager,
        "generation_config": "vllm",  # sampling is the recipe's business, not the checkpoint's
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),  # or models may pad for ever
        "disable_log_stats": True,
    }
    if section.tokenizer is not None:
        arguments["tokenizer"] = section.tokenizer
    if current_platform.is_cpu():
        arguments["kv_cache_memory_bytes"] = section.cpu_kvcache_bytes
    try:
        return AsyncEngineArgs(**{**arguments, **section.extra})
    except ValueError as error:
        raise UserError(str(error), where=where, fix="correct the setting that vLLM names") from error


def prompt_ids(request: Request, tokenizer: Tokenizer) -> list[int]:
    """The whole prompt of a request; a chat is one in the model's own template."""
    if request.prompt_ids is not None:
        return list(request.prompt_ids)
    return tokenizer.encode(tokenizer.render(request.messages))


def sampling_parameters(request: Request) -> SamplingParams:
    """A request's sampling in vLLM's terms. Raises `UserError`."""
    try:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop_token_ids=list(request.stop_token_ids),
            stop=list(request.stop),
            structured_outputs=StructuredOutputsParams(json=dict(request.schema)) if request.schema is not None else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    except (ValueError, VLLMClientError) as error:
        raise UserError(str(error), where="sampling", fix="correct the setting that vLLM names") from error
