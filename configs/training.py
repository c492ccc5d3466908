"""How weights change: the loss, the learner, and what is measured on the way."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


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
