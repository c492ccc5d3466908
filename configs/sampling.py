"""How answers come about: the rollout actors' engines and sampling, pairing, rewards."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from configs.scorers import CHECKPOINT_SCORERS, PartSection, ScorerSection
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


class RewardsSection(ScorerSection):
    """The reward servers, and how actors ask them."""

    changeable = frozenset(
        {"protocol", "urls", "token_file", "servers", "batch_items", "batch_tokens", "timeout_s", "attempts", "deadline_s"}
        | {"cpu_threads", "gpus"}
    )

    scorer: Literal["seqcls", "armorm", "bleu", "chrf", "qa", "judge", "python", "combination"] = "seqcls"
    """`seqcls`: any sequence-classification checkpoint; `armorm`: ArmoRM-Llama3-8B; `bleu`, `chrf`: sentence BLEU or chrF against the
    reference; `qa`: whether the answer contains an acceptable one; `judge`: a language model behind an OpenAI-compatible server;
    `python`: a function of your own; `combination`: the weighted sum of several."""
    combination: dict[str, PartSection] = {}
    """The parts of the scorer `combination`, by names of your own (letters, digits, - and _)."""
    urls: list[str] = []
    """Reward servers that already run; when empty, `servers` of them are started."""
    protocol: Literal["native", "openrlhf", "classify", "pooling"] = "native"
    """What the servers at `urls` speak: `native` (`rba serve-rewards`), `openrlhf` (`/get_reward`), or vLLM's `classify` or `pooling`. For
    the last two `model` is needed here too: conversations are sent as the token ids of its chat template."""
    token_file: str | None = None
    """File (mode 0600) with the bearer token of the servers, on the launching machine; `RBA_REWARDS_TOKEN` in its environment does the
    same. Without either, servers that the run starts off loopback get one from the run's folder."""
    servers: PositiveInt = 1
    """Reward servers to start."""
    batch_items: PositiveInt = 64
    """Most items that one request, and one forward pass, carry."""
    batch_tokens: PositiveInt = 16_384
    """Most tokens of one forward pass, padding included; a longer item goes alone."""
    timeout_s: PositiveFloat = 30.0
    """Of one try. A server that cannot answer within it says so at once."""
    attempts: PositiveInt = 5
    """Tries per request, with exponential back-off and jitter; then the items end without a score."""
    deadline_s: PositiveFloat | None = None
    """Of a request with all its tries, four times `timeout_s` by default; then the items end without a score."""
    cpu_threads: NonNegativeInt = 1
    """Threads of one server's model on a CPU."""
    gpus: NonNegativeFloat | None = None
    """GPUs per server; by default 1 for a model where the machine has GPUs, else 0."""

    @field_validator("combination")
    @classmethod
    def parts_have_plain_names(cls, value: dict[str, PartSection]) -> dict[str, PartSection]:
        """Names of parts stand in dotted keys and in metrics."""
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
                raise ValueError(f"{name!r} is no name of a part; take up to 32 letters, digits, - and _")
        return value

    @model_validator(mode="after")
    def combinations_weigh_something(self) -> Self:
        """Refuse a combination without parts, and one whose score is always 0. Servers that run already have their own parts."""
        if self.scorer == "combination" and not self.urls and not any(part.weight for part in self.combination.values()):
            raise ValueError(
                "rewards.scorer=combination needs parts of a weight; set rewards.combination.NAME.scorer (and .weight) for each of them"
            )
        return self

    @property
    def parts(self) -> dict[str, ScorerSection]:
        """The scorers that are at work, each by the key of its section: one, or those of the combination."""
        if self.scorer != "combination":
            return {"rewards": self}
        return {f"rewards.combination.{name}": part for name, part in self.combination.items()}

    @property
    def models(self) -> dict[str, str]:
        """The checkpoints that the scorers load, by key."""
        loading = {key: part.model for key, part in self.parts.items() if part.scorer in CHECKPOINT_SCORERS}
        return {f"{key}.model": model for key, model in loading.items() if model}

    def require(self, instead: str = "") -> None:
        """Raises ValueError, as the schema's checks do, when a scorer lacks a key. `instead`: what would do as well."""
        for key, part in self.parts.items():
            if missing := part.missing_key():
                raise ValueError(f"{key}.scorer={part.scorer} needs {key}.{missing}{instead}; set {key}.{missing}")

    def alone(self, name: str) -> RewardsSection:
        """The section of a server that scores by the part `name` alone."""
        shared = {field: getattr(self, field) for field in RewardsSection.model_fields if field not in PartSection.model_fields}
        part = self.combination[name]
        own = {field: getattr(part, field) for field in ScorerSection.model_fields}
        return RewardsSection(**{**shared, **own, "combination": {}, "protocol": "native", "urls": []})

    @property
    def tokenizes(self) -> bool:
        """True when the client renders conversations by the tokenizer of `model`."""
        return self.protocol in {"classify", "pooling"} or (self.protocol == "openrlhf" and self.model is not None)

    @property
    def request_limit_s(self) -> float:
        """How long a request may take with all its tries."""
        return 4 * self.timeout_s if self.deadline_s is None else self.deadline_s

    @model_validator(mode="after")
    def a_try_ends_before_the_deadline(self) -> Self:
        """Refuse a deadline that would hide from the client which server it is that hangs."""
        if self.request_limit_s <= self.timeout_s:
            raise ValueError(
                f"rewards.deadline_s ({self.request_limit_s:g}) must be above rewards.timeout_s ({self.timeout_s:g}), that of one try; "
                "lengthen the one or shorten the other"
            )
        return self

    @model_validator(mode="after")
    def protocol_is_possible(self) -> Self:
        """Refuse other protocols than our own where nobody speaks them."""
        if self.protocol != "native" and not self.urls:
            raise ValueError(f"rewards.protocol={self.protocol} needs rewards.urls: the servers that a run starts speak native")
        if self.tokenizes and not self.model:
            raise ValueError(f"rewards.protocol={self.protocol} needs rewards.model, whose chat template makes the conversations")
        return self
