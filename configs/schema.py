"""How a run is described: the pydantic schema behind every recipe.

Field docs are the strings under the fields; `rba config schema` prints them. Times are in seconds (`_s`), sizes in
bytes (`_bytes`), and work is counted in instruction groups (`_groups`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strategy = Literal["group", "single", "hybrid", "sft"]
Port = Annotated[int, Field(ge=0, le=65535)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are checked on assignment as well."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)

    changeable: ClassVar[frozenset[str]] = frozenset()
    """Keys that may differ when a run goes on from a checkpoint; "*" for all of them."""

    def fixed_differences(self, other: Self, at: str = "") -> Iterator[tuple[str, Any, Any]]:
        """``(key, own value, other's)`` of each key in which `other` differs though a run that goes on has to keep it."""
        for name in type(self).model_fields:
            own, theirs = getattr(self, name), getattr(other, name)
            if own == theirs or {name, "*"} & self.changeable:
                continue
            if isinstance(own, Section) and isinstance(theirs, Section):
                yield from own.fixed_differences(theirs, f"{at}{name}.")
            else:
                yield f"{at}{name}", own, theirs


class RunSection(Section):
    """What the run is called and where it leaves its files."""

    changeable = frozenset({"name", "directory"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """Name of the folder under `directory`; a number is appended when it is taken."""
    directory: str = "runs"
    """Where runs are kept."""
    seed: NonNegativeInt = 0
    """Seeds prompt order, sampling and the learner."""


class ModelSection(Section):
    """The SpeechLM that is aligned."""

    adapter: Literal["qwen2_audio", "qwen2_5_omni"] = "qwen2_audio"
    """Family of the SpeechLM."""
    path: str
    """Checkpoint folder in the released Hugging Face layout, a Hub name, or `SCHEME:NAME` of an asset provider."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights that are published to the actors."""


class DataSection(Section):
    """Instruction groups, as JSON lines beside their audio."""

    train: str
    """Manifest of the training groups: a path, a URL such as `s3://bucket/train.jsonl`, or `SCHEME:NAME` of an asset provider."""
    mix: dict[str, PositiveFloat] = {}
    """Further training manifests by weight: for each group of `train`, that many of theirs. Each goes through epochs of its own."""
    test: str | None = None
    """Manifest of the held-out groups that are measured before and after."""
    validation: str | None = None
    """Manifest of the groups that the best checkpoint is chosen by (see `validation`)."""
    max_audio_s: PositiveFloat = 30.0
    """Longer audio is refused."""
    shuffle: bool = True
    """Order the groups of each epoch by the run's seed."""


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


class LossSection(Section):
    """The paper's loss (equations 1 to 8), in its symbols."""

    beta: PositiveFloat = 0.1
    """β of the preference loss."""
    lambda_ce: NonNegativeFloat = 0.2
    """λ, the weight of the cross-entropy on the teacher's reference (equation 5)."""
    reference_model: Literal["none", "frozen", "adapter_off"] = "none"
    """`none`: the reference model is left out, as the paper suggests; `frozen`: the starting checkpoint, a second model in memory;
    `adapter_off`: the starting checkpoint, which is the policy without its adapters (needs `learner.lora`)."""
    ce_reduction: Literal["token_mean", "sum"] = "token_mean"
    """Equation 1 sums over tokens; the mean keeps its size independent of the length."""
    ce_utterances: Literal["all", "pair"] = "all"
    """Voices that the cross-entropy averages over."""
    preference: Literal["sigmoid", "ipo"] = "sigmoid"
    """`sigmoid`: equations 2 and 6; `ipo`: the squared distance of log V⁺ − log V⁻ from 1/(2β)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round (sigmoid only)."""
    length_normalization: bool = False
    """Divide log π of a pair's answers by their number of tokens."""
    pair_prompt: Literal["own", "chosen"] = "own"
    """The voice on which a rejected answer is judged: the one that it was sampled for, as in the paper, or the chosen answer's."""


class LoraSection(Section):
    """Low-rank adapters, in peft's words. They are merged into the weights that are published and saved."""

    r: PositiveInt = 16
    """Rank."""
    lora_alpha: PositiveFloat = 32.0
    """The product of the adapters counts `lora_alpha / r` times."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Linear layers of the language model that get adapters, by the last part of their names. The audio tower gets none."""


class LearnerSection(Section):
    """The learner: DeepSpeed, the optimiser, the schedule, the pace of publishing."""

    changeable = frozenset(
        {
            "steps",
            "epochs",
            "max_hours",
            "micro_batch_groups",
            "ranks",
            "zero_stage",
            "gradient_checkpointing",
            "checkpoint_every",
            "keep_checkpoints",
            "keep_every",
            "journal_limit_bytes",
            "checkpoint_copies",
            "sampler_gap_alarm",
            "nonfinite_steps",
            "nonfinite_rollbacks",
            "lease_deadline_s",
            "heartbeat_s",
            "cpu_threads",
        }
    )

    steps: PositiveInt = 100
    """Optimiser steps of the run."""
    epochs: PositiveFloat | None = None
    """Passes over the training groups; takes the place of `steps`."""
    max_hours: PositiveFloat | None = None
    """Time after which training ends, counted from the learner's start; what was reached is measured and saved."""
    batch_groups: PositiveInt = 8
    """Instruction groups per optimiser step, over all ranks."""
    micro_batch_groups: PositiveInt = 8
    """Most groups in one forward pass of one rank."""
    ranks: PositiveInt = 1
    """Learner processes, one GPU each where there are GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """DeepSpeed ZeRO stage."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of forward and backward."""
    learning_rate: PositiveFloat = 1e-6
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up."""
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's."""
    max_grad_norm: PositiveFloat = 1.0
    freeze_audio_tower: bool = False
    """Train projector and language model only."""
    lora: LoraSection | None = None
    """Train adapters of the language model, and nothing else; by default all weights are trained."""
    gradient_checkpointing: bool = False
    publish_every: PositiveInt = 1
    """Steps from one policy version that reaches the actors to the next."""
    max_policy_lag: NonNegativeInt = 2
    """Pairs older than this many steps are dropped; what is leased and queued stays within (lag + 1) batches."""
    sampler_gap_alarm: PositiveFloat = 0.5
    """Nats per token: a completion whose log-probabilities by the learner and by its sampler differ more on average counts as off."""
    nonfinite_steps: PositiveInt = 3
    """Steps in a row without a finite loss or gradient, after which weights and moments of the last good checkpoint are put back and the
    groups of these steps are left out of the rest of the run."""
    nonfinite_rollbacks: NonNegativeInt = 3
    """Such rollbacks; where another one would be due the run stops."""
    checkpoint_every: NonNegativeInt = 0
    """Steps between checkpoints; 0 writes one at the end, and where `journal_limit_bytes` asks for one."""
    keep_checkpoints: NonNegativeInt = 0
    """The newest ones that are kept; 0 keeps all. The best one by `validation` and the one that a rollback would need always stay."""
    keep_every: NonNegativeInt = 0
    """Of the older ones, those of each multiple of this step stay too; 0 for none."""
    journal_limit_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    """Size that the journal is held to. A checkpoint is written, whatever `checkpoint_every` says, when half of this has come behind the
    last one; and the journal then reaches back to the last two checkpoints, where it would be larger if it reached back to all."""
    checkpoint_copies: str | None = None
    """URL that every checkpoint is copied to, of any kind that fsspec knows (s3://…, gs://…, hdfs://…, file:///…); credentials come from
    where that library looks. The copy lies in `<URL>/<folder of the run>/step-N`."""
    lease_deadline_s: PositiveFloat = 300.0
    """After this a lease is granted again with a higher epoch."""
    heartbeat_s: PositiveFloat = 2.0
    cpu_threads: NonNegativeInt = 1
    """Threads of one rank on a CPU; 0 leaves it to torch."""
    deepspeed: dict[str, Any] = {}
    """Merged over the DeepSpeed configuration that rba writes."""


class EvaluationSection(Section):
    """Held-out evaluation, through leases of its own."""

    changeable = frozenset({"*"})

    groups: NonNegativeInt = 200
    """Held-out groups that are measured (the first ones of `data.test`); 0 switches it off."""
    max_tokens: PositiveInt | None = None
    """Longest answer; by default `rollout.sampling.max_tokens`."""
    before: bool = True
    """Measure the starting checkpoint."""
    every: NonNegativeInt = 0
    """Steps between further measurements; 0 for none."""
    score: bool | None = None
    """Have a reward server score the held-out answers too; by default only where the strategy needs rewards anyway."""


class ValidationSection(Section):
    """Choosing the best checkpoint, and stopping early, by groups that neither train nor are reported."""

    changeable = frozenset({"patience"})

    every: NonNegativeInt = 0
    """Steps between validations; 0 for none."""
    groups_per_topic: PositiveInt = 128
    """The first ones of each topic in `data.validation`."""
    metric: Literal["accuracy", "bleu", "consistency", "reward"] = "accuracy"
    """What the best checkpoint has most of."""
    patience: NonNegativeInt = 0
    """Validations in a row without a better one, after which the run ends; 0 never ends it early."""


class NetworkSection(Section):
    """Where the run's sockets listen. Port 0 takes a free one."""

    changeable = frozenset({"*"})

    bind: str = "127.0.0.1"
    """Address that the sockets bind to; anything but loopback needs `keys` or `insecure`."""
    keys: str | None = None
    """Folder of CURVE keys, at the same path on each machine: the ZeroMQ sockets then take messages of allowed keys alone. What the
    launching machine lacks is made at the launch; see docs/security.md for the others."""
    pairs_port: Port = 0
    weights_port: Port = 0
    control_port: Port = 0
    insecure: bool = False
    """Allow binding off loopback without keys, and a Ray cluster without a token: anyone who reaches the ports can then feed the learner,
    and run programs."""
    chunk_bytes: Annotated[int, Field(ge=4096, le=4 << 20)] = 4 << 20
    """Size of a weight chunk."""

    @property
    def leaves_the_machine(self) -> bool:
        """True when the sockets listen to other machines too."""
        return self.bind not in {"127.0.0.1", "::1", "localhost"}


class WeightsSection(Section):
    """How policy versions get from the learner to the rollout actors."""

    changeable = frozenset({"*"})

    backend: Literal["zmq", "delta", "nccl"] = "zmq"
    """`zmq`: every version whole; `delta`: what changed since the version that a machine holds, with the same weights as a result, bit for
    bit. It pays on networks slower than some 10 Gbit/s, with `model.dtype: bfloat16` and small learning rates. `nccl`: by one broadcast to
    all machines of a fixed fleet, by `zmq` to those that miss it; every machine needs a GPU, on which it takes a few hundred MB."""
    anchor_every: PositiveInt = 16
    """Of so many versions in a row a machine takes one whole (`delta` only)."""
    collective: Literal["nccl", "gloo"] = "nccl"
    """What broadcasts (`nccl` only): NCCL between GPUs, or gloo between machines without any."""
    in_clear: bool = False
    """Allow broadcasts off loopback: NCCL and gloo know neither keys nor encryption, so whoever reaches that network can read the weights,
    and put others in their place (`nccl` only)."""


class RaySection(Section):
    """The Ray cluster that the processes run on."""

    changeable = frozenset({"*"})

    address: str | None = None
    """Address of a running cluster; by default one is started on this machine for the run."""
    num_cpus: PositiveInt | None = None
    """CPUs to offer when one is started; by default all."""


class FleetSection(Section):
    """How processes come back that fail while the run goes on, and how many rollout actors there are."""

    changeable = frozenset({"*"})

    restarts: NonNegativeInt = 3
    """Times that one rollout actor, server or fetcher is started again within `restart_window_s`; then it is quarantined."""
    restart_window_s: PositiveFloat = 1800.0
    restart_wait_s: PositiveFloat = 1.0
    """Longest first pause before a restart; each further one is twice as long, up to a minute, less a random part of up to a half."""
    learner_restarts: NonNegativeInt = 1
    """Times in a run that the learner, all ranks together, is started again from the last checkpoint."""
    hang_timeout_s: PositiveFloat = 300.0
    """A process that lives and neither answers nor gets on with its work for so long is ended and started again."""
    learner_hang_timeout_s: PositiveFloat = 1800.0
    """The same for the learner, whose steps and checkpoints may be long."""
    start_timeout_s: PositiveFloat = 1800.0
    """The same for a process that is built, or that starts its engine."""
    drain_s: PositiveFloat = 30.0
    """A rollout actor that leaves, for a smaller fleet or after `rba stop`, has so long to finish the groups that it samples; what it has
    not begun is leased to others at once, what it does not finish then."""
    spare_actors: NonNegativeInt = 0
    """Rollout actors beyond those that work, with their engine loaded and the latest policy version in it; one takes over at once when
    another one fails."""
    autoscale: bool = False
    """Let the number of rollout actors follow the learner, between `min_actors` and `max_actors`."""
    min_actors: PositiveInt = 1
    max_actors: PositiveInt = 8
    learner_idle: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of its time that the learner may wait for results; above it an actor joins, below half of it one may leave."""
    queue_batches: PositiveFloat = 1.0
    """Batches of results that may wait for the learner; an actor leaves when there are always as many."""
    autoscale_window_s: PositiveFloat = 60.0
    """Both are looked at over this time."""
    autoscale_pause_s: NonNegativeFloat = 180.0
    """Time between two changes."""

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> Self:
        """Refuse bounds that leave no number between them."""
        if self.min_actors > self.max_actors:
            raise ValueError(f"fleet.min_actors ({self.min_actors}) is above fleet.max_actors ({self.max_actors})")
        return self


class RunConfig(Section):
    """A whole run."""

    run: RunSection = RunSection()
    strategy: Strategy = "group"
    """`group`: best against worst over the voices; `single`: the teacher's reference against each sample; `hybrid`: best against worst, the
    reference being one more candidate for the best; `sft`: the reference alone."""
    model: ModelSection
    data: DataSection
    rollout: RolloutSection = RolloutSection()
    pairing: PairingSection = PairingSection()
    rewards: RewardsSection = RewardsSection()
    loss: LossSection = LossSection()
    learner: LearnerSection = LearnerSection()
    evaluation: EvaluationSection = EvaluationSection()
    validation: ValidationSection = ValidationSection()
    network: NetworkSection = NetworkSection()
    weights: WeightsSection = WeightsSection()
    ray: RaySection = RaySection()
    fleet: FleetSection = FleetSection()

    @property
    def needs_rewards(self) -> bool:
        """True when the strategy cannot train without scores (equations 2 to 4)."""
        return self.strategy in {"group", "hybrid"}

    @property
    def uses_rewards(self) -> bool:
        """True when any part of the run asks a reward server."""
        return self.needs_rewards or bool(self.evaluation.score)

    @property
    def manifests(self) -> dict[str, str]:
        """The data sets that the run reads, by key under `data`."""
        data = self.data
        test, validation = data.test if self.evaluation.groups else None, data.validation if self.validation.every else None
        mixed = ((f"mix {number}", path) for number, path in enumerate(data.mix, 1))
        return {key: path for key, path in (("train", data.train), *mixed, ("test", test), ("validation", validation)) if path}

    @property
    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that the run starts from, and that its own reward servers load, by key."""
        scores = self.uses_rewards and not self.rewards.urls and self.rewards.scorer != "bleu" and self.rewards.model
        return {"model.path": self.model.path, **({"rewards.model": scores} if scores else {})}

    @property
    def budget_groups(self) -> int:
        """Most groups leased, queued and in the current step together: the bound on staleness."""
        return (self.learner.max_policy_lag + 1) * self.learner.batch_groups

    @model_validator(mode="after")
    def combinations_are_possible(self) -> Self:
        """Refuse combinations that could not run, with what to do instead."""
        learner, loss = self.learner, self.loss
        if self.strategy != "sft" and loss.reference_model == "none" and loss.lambda_ce == 0:
            raise ValueError(
                "loss.reference_model: none needs loss.lambda_ce > 0, since nothing else would hold the policy near the teacher; "
                "set loss.reference_model=frozen or loss.lambda_ce=0.2"
            )
        if loss.reference_model == "adapter_off" and learner.lora is None:
            raise ValueError("loss.reference_model: adapter_off needs adapters to switch off; set learner.lora.r=16, or use frozen")
        if loss.preference == "ipo" and loss.label_smoothing:
            raise ValueError("loss.label_smoothing has no meaning with loss.preference=ipo; leave it at 0")
        if learner.max_policy_lag < learner.publish_every - 1:
            raise ValueError(
                f"learner.max_policy_lag ({learner.max_policy_lag}) is below learner.publish_every - 1 ({learner.publish_every - 1}), "
                "so every pair would be dropped as stale; publish more often or allow more lag"
            )
        if self.validation.every and not self.data.validation:
            raise ValueError("validation.every needs data.validation, a manifest of the groups to validate by")
        if self.validation.every and self.validation.metric == "reward" and not (self.needs_rewards or self.evaluation.score):
            raise ValueError("validation.metric=reward needs evaluation.score=true, or nobody scores the answers")
        if learner.batch_groups % learner.ranks:
            raise ValueError(f"learner.batch_groups ({learner.batch_groups}) must be a multiple of learner.ranks ({learner.ranks})")
        if self.rewards.scorer != "bleu" and self.uses_rewards and not self.rewards.urls and not self.rewards.model:
            raise ValueError(f"rewards.scorer={self.rewards.scorer} needs rewards.model (or rewards.urls of servers that already run)")
        if self.weights.backend == "nccl":
            self._broadcasts_are_possible()
        if self.network.leaves_the_machine and self.network.keys is None and not self.network.insecure:
            raise ValueError(
                f"network.bind={self.network.bind} leaves the loopback interface and the sockets carry no keys; "
                "set network.keys to a folder for them, bind to 127.0.0.1, or set network.insecure=true on a network that you trust"
            )
        return self

    def _broadcasts_are_possible(self) -> None:
        if self.fleet.autoscale:
            raise ValueError("weights.backend=nccl needs a fixed fleet; set fleet.autoscale=false, or weights.backend=zmq")
        if self.network.leaves_the_machine and not self.weights.in_clear and not self.network.insecure:
            raise ValueError(
                f"weights.backend=nccl sends the weights in the clear and network.bind={self.network.bind} leaves the loopback interface; "
                "set weights.in_clear=true on a network that you trust, or weights.backend=zmq"
            )
