"""How the teacher is asked: the sections `teacher`, `instructions` and `responses` of a synthesis."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

Share = Annotated[float, Field(gt=0, le=1)]


class LanguageModelSection(Section):
    """A language model: in this process, or behind an OpenAI-compatible server."""

    changeable = frozenset(
        {
            "url",
            "api_key_env",
            "concurrency",
            "timeout_s",
            "attempts",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "cpu_kvcache_bytes",
            "enforce_eager",
            "cpu_threads",
            "extra",
        }
    )

    model: str
    """Checkpoint folder, Hub name, `SCHEME:NAME` of an asset provider; with `url`, the name that the server knows it by."""
    url: str | None = None
    """Base URL of an OpenAI-compatible server (…/v1); without one, vLLM runs in process."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    tokenizer: str | None = None
    """Where the chat template is read from when `url` is given: a folder or Hub name; by default `model`."""
    concurrency: PositiveInt = 64
    """Requests to the server at once."""
    timeout_s: PositiveFloat = 300.0
    attempts: PositiveInt = 8
    """Tries per request, with exponential back-off and jitter; then the synthesis stops, and goes on when it is called again."""
    tensor_parallel_size: PositiveInt = 1
    max_model_len: PositiveInt | None = 4096
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpu_memory_utilization: Share = 0.9
    cpu_kvcache_bytes: PositiveInt = 1 << 30
    enforce_eager: bool = False
    cpu_threads: NonNegativeInt = 0
    """Threads of the engine on a CPU; 0 leaves it to vLLM."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further `EngineArgs` fields of vLLM; with `url`, further fields of each request (null leaves one out)."""
    chat_template_options: dict[str, Any] = Field(default_factory=dict)
    """What the chat template takes beside the messages, such as `enable_thinking: false` (Qwen3) or `date_string` (Llama 3.2)."""


class InstructionsSection(Section):
    """The instructions: written by the teacher itself, or taken from transcripts."""

    count: PositiveInt = 250_000
    """Instructions that are sampled, before the filter."""
    source: Literal["pre_query", "seeded_chat", "corpus"] = "pre_query"
    """`pre_query`: sampled from the chat template's text before a user's words (Magpie); `seeded_chat`: asked for in a chat, for servers
    without raw completions; `corpus`: the transcripts of `corpus`."""
    system: str | None = None
    """System prompt before the pre-query text; by default the template's own."""
    pre_query: str | None = None
    """Takes the place of what the chat template gives."""
    temperature: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.2)
    """Each block draws one in this range."""
    top_p: tuple[Share, Share] = (0.99, 1.0)
    max_tokens: PositiveInt = 256
    first_line: bool = False
    """End at the first line's end."""


class ResponsesSection(Section):
    """The teacher's references."""

    temperature: NonNegativeFloat = 0.0
    top_p: Share = 1.0
    max_tokens: PositiveInt = 1024
    system: str | None = None
    prompt: Annotated[str, Field(pattern=r"\{instruction\}")] = "{instruction}"
    """The user's turn to the teacher; `{instruction}` and `{prompt}` (the task's) are replaced."""
    task_prompt: str = ""
    """Text that stands beside the audio in every group whose corpus gives it none."""
    language: str = "en"
    """Of the references."""
