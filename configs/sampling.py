"""How answers come about: the rollout actors' engines and sampling, pairing, rewards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class SamplingSection(Section):
    """How rollout actors sample; further keys go to vLLM's `SamplingParams` as they are."""

    temperature: NonNegativeFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    max_tokens: PositiveInt = 256
    """Longest completion."""
    extra: dict[str, Any] = {}
    """Further `SamplingParams` fields."""


class EngineSection(Section):
    """vLLM's engine; further keys go to `AsyncEngineArgs` as they are."""

    changeable = frozenset({"*"})

    tensor_parallel_size: PositiveInt = 1
    max_model_len: PositiveInt | None = None
    max_num_seqs: PositiveInt = 64
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    enforce_eager: bool = False
    cpu_kvcache_bytes: PositiveInt = 1 << 30
    """Size of the KV cache on a CPU (vLLM's `kv_cache_memory_bytes`)."""
    extra: dict[str, Any] = {}
    """Further `AsyncEngineArgs` fields."""


class RolloutSection(Section):
    """The rollout actors."""

    changeable = frozenset({"actors", "capacity_groups", "engine", "cpu_threads", "gpus"})

    actors: PositiveInt = 1
    """Number of rollout actors, each with a vLLM engine of its own."""
    capacity_groups: PositiveInt = 8
    """Groups that one actor holds at once."""
    sampling: SamplingSection = SamplingSection()
    engine: EngineSection = EngineSection()
    cpu_threads: NonNegativeInt = 0
    """Threads of the engine on a CPU; 0 leaves it to vLLM."""
    gpus: NonNegativeFloat | None = None
    """GPUs per actor; by default `tensor_parallel_size` where the machine has GPUs, else 0."""


class PairingSection(Section):
    """Which completions become chosen and rejected."""

    pairs: Literal["best_worst", "all"] = "best_worst"
    """Of a group's answers: the best against the worst, as in the paper, or every better one against every worse one of another voice."""
    min_margin: NonNegativeFloat = 0.0
    """Rewards closer than this are a tie (equal texts always are)."""


class RewardsSection(Section):
    """The reward servers, and how actors ask them."""

    changeable = frozenset({"urls", "servers", "batch_items", "timeout_s", "attempts", "cpu_threads", "gpus"})

    scorer: Literal["reward_model", "armorm", "bleu"] = "reward_model"
    """`reward_model`: any sequence-classification checkpoint; `armorm`: ArmoRM-Llama3-8B; `bleu`: sentence BLEU against the reference."""
    model: str | None = None
    """Checkpoint of the scorer: a path, a Hub name or `SCHEME:NAME` of an asset provider."""
    urls: list[str] = []
    """Reward servers that already run; when empty, `servers` of them are started."""
    servers: PositiveInt = 1
    """Reward servers to start."""
    batch_items: PositiveInt = 64
    """Most items that one request, and one forward pass, carry."""
    timeout_s: PositiveFloat = 30.0
    """Of one request."""
    attempts: PositiveInt = 5
    """Tries per request, with exponential back-off and jitter; then the items end without a score."""
    cpu_threads: NonNegativeInt = 1
    """Threads of one server's model on a CPU."""
    gpus: NonNegativeFloat | None = None
    """GPUs per server; by default 1 for a model where the machine has GPUs, else 0."""
