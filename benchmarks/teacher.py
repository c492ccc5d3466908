"""What the stages that ask a teacher cost, beside vLLM's own `LLM.generate` on the same prompts with the same sampling.

    python -m benchmarks.teacher [--json FILE]

The quickstart's teacher, whose texts are short, so that all that is not the model weighs as much as it can. The stages get their blocks as
in a synthesis, as many at once as they take, while `LLM.generate` is handed all requests in one call. Each side has an engine of its own
with the same settings, and they take turns. A kept instruction or answer is one that the stage does not reject.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from actors.synthesis.instructions import Instructions
from actors.synthesis.records import Draft
from actors.synthesis.responses import Responses
from actors.synthesis.stage import Stage
from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Generation, Request, Teacher
from benchmarks.command import command
from benchmarks.rows import row, table
from configs.synthesis import SynthesisConfig

CHECKPOINT = Path(__file__).parent.parent / "quickstart" / "checkpoints" / "teacher"
BLOCKS = 12
BLOCK = 128
REPEATS = 3
TARGET = 0.9
ENGINE = {"max_model_len": 256, "enforce_eager": True, "cpu_kvcache_bytes": 1 << 29}


class Recorder(Teacher):
    """A teacher that remembers what it was asked, and counts tokens."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher
        self.requests: list[Request] = []
        self.tokens = 0

    @property
    def description(self) -> str:
        """The teacher's own."""
        return self._teacher.description

    def _start(self) -> None:
        self._teacher.__enter__()

    def _stop(self) -> None:
        self._teacher.__exit__(None, None, None)

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        """Ask the teacher."""
        self.requests += requests
        generations = self._teacher.sample(requests)
        self.tokens += sum(each.tokens for each in generations)
        return generations


@dataclass(frozen=True)
class Turn:
    """What one side did."""

    kept: int
    tokens: int
    seconds: float


def staged(stage: Stage, recorder: Recorder, blocks: Sequence[Sequence[Draft]]) -> tuple[Turn, list[Draft]]:
    """A stage at work, as many blocks at once as it takes."""
    recorder.requests.clear()
    recorder.tokens, started_s = 0, time.perf_counter()
    with ThreadPoolExecutor(stage.ahead) as pool:
        done = [draft for block in pool.map(stage.run, range(len(blocks)), blocks) for draft in block]
    seconds = time.perf_counter() - started_s
    return Turn(sum(draft.kept for draft in done), recorder.tokens, seconds), done


class Alone:
    """`LLM.generate` in one call."""

    def __init__(self, config: SynthesisConfig) -> None:
        from actors.synthesis.teacher.tokenizer import open_tokenizer
        from actors.synthesis.teacher.vllm import engine_arguments, prompt_ids, sampling_parameters

        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # an engine core of its own, as the other side's
        from vllm import LLM

        given = engine_arguments(config.teacher, "teacher")
        named = {"dtype", "max_model_len", "enforce_eager", "generation_config", "structured_outputs_config", "disable_log_stats"}
        self._llm = LLM(
            str(CHECKPOINT), kv_cache_memory_bytes=given.kv_cache_memory_bytes, **{name: getattr(given, name) for name in named}
        )
        self._tokenizer, self._ids, self._parameters = open_tokenizer(config.teacher, "teacher"), prompt_ids, sampling_parameters

    def turn(self, requests: Sequence[Request], kept: int) -> Turn:
        """All requests; as they are the stage's, as many are `kept`."""
        started_s = time.perf_counter()
        prompts: Any = [{"prompt_token_ids": self._ids(request, self._tokenizer)} for request in requests]
        outputs = self._llm.generate(prompts, [self._parameters(request) for request in requests], use_tqdm=False)
        return Turn(kept, sum(len(output.outputs[0].token_ids) for output in outputs), time.perf_counter() - started_s)


def compare(case: str, stage: Stage, recorder: Recorder, alone: Alone, blocks: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
    """Two rows: kept per second, and tokens per second."""
    with stage:
        staged(stage, recorder, blocks)
        alone.turn(recorder.requests, 0)
        pairs = []
        for _ in range(REPEATS):
            ours, _done = staged(stage, recorder, blocks)
            pairs.append((ours, alone.turn(recorder.requests, ours.kept)))

    def of(unit: str, measure: Callable[[Turn], float]) -> dict[str, Any]:
        mine = median(measure(ours) for ours, _ in pairs)
        ratio = median(measure(ours) / measure(theirs) for ours, theirs in pairs)
        return row(case, unit, mine, "LLM.generate", mine / ratio, TARGET)

    return [of("kept/s", lambda turn: turn.kept / turn.seconds), of("tokens/s", lambda turn: turn.tokens / turn.seconds)]


def measure() -> list[dict[str, Any]]:
    """Every row."""
    config = SynthesisConfig.model_validate(
        {"teacher": {"model": str(CHECKPOINT), **ENGINE}, "instructions": {"max_tokens": 64}, "responses": {"max_tokens": 64}}
    )
    recorder = Recorder(open_teacher(config.teacher))
    blocks = [[Draft(id=f"i{number * BLOCK + offset}") for offset in range(BLOCK)] for number in range(BLOCKS)]
    with recorder:
        alone, asking = Alone(config), Instructions(config, recorder)
        with asking:
            _, written = staged(asking, recorder, blocks)
        asked = [draft for draft in written if draft.kept] or written
        answering = [[asked[(number * BLOCK + offset) % len(asked)] for offset in range(BLOCK)] for number in range(BLOCKS)]
        rows = compare("instructions", asking, recorder, alone, blocks)
        rows += compare("responses", Responses(config, recorder), recorder, alone, answering)
    print(table(rows), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    command("teacher", __doc__, measure)
