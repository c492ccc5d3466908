"""The model, its optimiser and one step. Edge: torch, deepspeed.

Every rank holds an `Engine` and calls the same methods in the same order; under ZeRO-3 each of them is a collective.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.training import LearnerSection, LossSection
from learner import lora
from learner.clips import Clips
from learner.collate import MicroBatch, TrainingGroup, collate
from learner.figures import PHASES, Figures, StepFigures
from learner.logprobs import AnswerLogProbs, by_sequence
from learner.objective import objective
from learner.ranks import Ranks
from learner.schedule import learning_rate
from learner.training_state import StartTensors, Tensors, TrainingState
from policies.adapter import Adapter, Processing


class Engine:
    """One rank's share of the learner."""

    def __init__(
        self,
        section: LearnerSection,
        loss: LossSection,
        family: Adapter,
        directory: Path,
        processing: Processing,
        clips: Clips,
        ranks: Ranks,
        *,
        seed: int = 0,
        saved: Tensors | None = None,
        updates: int = 0,
    ) -> None:
        """The model lies in `directory`. `saved` are the weights and moments of a run that goes on, after `updates` updates."""
        self._seed, self._directory = seed, directory
        self._section, self._loss, self._family = section, loss, family
        self._processing, self._clips, self._ranks = processing, clips, ranks
        self._model = self._starting_policy()
        if section.gradient_checkpointing:
            self._checkpoint_activations()
        self._names = family.released_names(self._model)
        self._module = AnswerLogProbs(self._model, family)
        self._micro_batches = math.ceil(section.batch_groups / ranks.world_size / section.micro_batch_groups)
        self._engine = self._initialize()
        self.training_state = TrainingState(self._engine.optimizer, self._released(), ranks.rank)
        if saved is not None:
            self.training_state.restore(saved, updates)
        self._reference = self._load_reference(directory) if loss.reference_model == "frozen" else None

    def _load(self, directory: Path) -> nn.Module:
        return self._family.load_model(directory, self._section.precision)

    def _starting_policy(self) -> nn.Module:
        model = self._load(self._directory)
        if self._section.freeze_audio_tower:
            for parameter in self._family.audio_parameters(model):
                parameter.requires_grad_(False)
        if self._section.lora is not None:
            lora.inject(model, self._section.lora, self._family, self._seed)
        return model

    def _released(self) -> list[tuple[str, nn.Parameter]]:
        return [(self._names[name], parameter) for name, parameter in self._model.named_parameters()]

    @property
    def trained_names(self) -> set[str]:
        """Released names of the tensors that differ from version to version; the others stay those of the starting checkpoint."""
        return {self._released_name(weight) for weight in lora.weights(self._model) if weight.is_trained}

    def _released_name(self, weight: lora.Weight) -> str:
        return self._names[weight.parameter_name].replace(lora.BASE, "")

    def _checkpoint_activations(self) -> None:
        model: Any = self._model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    # --- DeepSpeed ------------------------------------------------------------------------------------------

    def _initialize(self) -> Any:
        import deepspeed

        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        settings = deepspeed_config(self._section, self._ranks, self._micro_batches, sum(parameter.numel() for parameter in trained))
        plain = self._section.zero_stage == 0 and self._section.precision == "float32"
        options: dict[str, Any] = {
            "lr": self._section.learning_rate,
            "betas": self._section.betas,
            "weight_decay": self._section.weight_decay,
            "fused": True,
        }
        optimizer = GuardedAdamW(trained, self._section.max_grad_norm, **options) if plain else torch.optim.AdamW(trained, **options)
        if plain:
            settings["gradient_clipping"] = 0.0  # GuardedAdamW clips
        engine, *_ = deepspeed.initialize(
            model=self._module, optimizer=optimizer, model_parameters=trained, config=settings, dist_init_required=False
        )
        engine.train()
        return engine

    def _load_reference(self, directory: Path) -> Any:
        """The starting checkpoint, never trained: partitioned like the policy under ZeRO-3, else a plain module."""
        module = AnswerLogProbs(self._load(directory), self._family).requires_grad_(False).eval()
        if self._section.zero_stage < 3:
            return module.to(self._ranks.device)
        import deepspeed

        settings = deepspeed_config(self._section, self._ranks, 1, sum(parameter.numel() for parameter in module.parameters()))
        engine, *_ = deepspeed.initialize(model=module, config=settings, dist_init_required=False)
        engine.eval()
        return engine

    # --- one step -------------------------------------------------------------------------------------------

    def step(self, items: Sequence[TrainingGroup], number: int) -> StepFigures:
        """Train on this rank's share of the batch as optimiser step `number`.

        A step whose loss or gradient is not finite changes nothing on any rank. Raises `UserError` for audio that the data set lacks.
        """
        torch.manual_seed(step_seed(self._seed, number, self._ranks.rank))  # so that a run that goes on draws what it would have drawn
        rate = learning_rate(self._section, number)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        figures, seconds = Figures(), dict.fromkeys(PHASES, 0.0)
        size = self._section.micro_batch_groups
        for index in range(self._micro_batches):
            self._micro_step(items[index * size : (index + 1) * size], figures, seconds)
        grad_norm = float(self._engine.get_global_grad_norm() or 0.0)
        applied = bool(self._engine.was_step_applied())
        total = Figures.from_list(self._ranks.sum(figures.as_list()))
        return StepFigures(total, grad_norm if applied else math.inf, applied, rate, seconds)

    def _micro_step(self, items: Sequence[TrainingGroup], figures: Figures, seconds: dict[str, float]) -> None:
        started = time.perf_counter()
        batch = self._collate(items, cross_entropy=self._loss.lambda_ce > 0)
        collated = time.perf_counter()
        reference = self._reference_logprobs(items)
        policy = by_sequence(self._engine(batch), batch)
        loss, found = objective(batch, policy, reference, self._loss, self._section.batch_groups, self._section.sampler_gap_alarm)
        figures.add(found)
        forwarded = time.perf_counter()
        # DeepSpeed averages over ranks. A loss that is not finite spreads as NaN, so that every rank sees it in the gradient's norm.
        poison = torch.where(loss.detach().isfinite(), 1.0, math.nan)
        self._engine.backward(loss * poison * self._ranks.world_size, scale_wrt_gas=False)
        went_back = time.perf_counter()
        self._engine.step()
        ended = time.perf_counter()
        for phase, spent in zip(seconds, (collated - started, forwarded - collated, went_back - forwarded, ended - went_back), strict=True):
            seconds[phase] += spent

    def _collate(self, items: Sequence[TrainingGroup], *, cross_entropy: bool) -> MicroBatch:
        loss = self._loss
        return collate(
            items,
            self._processing,
            self._clips,
            cross_entropy=cross_entropy,
            ce_utterances=loss.ce_utterances,
            pair_prompt=loss.pair_prompt,
        )

    def _reference_logprobs(self, items: Sequence[TrainingGroup]) -> tuple[Tensor, Tensor] | None:
        """Log π_ref of the pairs' chosen and rejected answers, each ``[pair]``; None without a reference model."""
        if self._loss.reference_model == "none":
            return None
        batch = self._collate(items, cross_entropy=False)
        with torch.no_grad(), lora.without(self._model) if self._reference is None else nullcontext():
            scored = by_sequence((self._reference or self._engine)(batch), batch).sequences
        put = partial(torch.as_tensor, device=self._ranks.device)
        return scored[put(batch.chosen)], scored[put(batch.rejected)]

    def logprobs(self, batch: MicroBatch) -> Tensor:
        """Log π_θ ``[token]`` of a micro-batch, without a gradient."""
        with torch.no_grad():
            scored: Tensor = self._engine(batch)
        return scored

    # --- weights --------------------------------------------------------------------------------------------

    def restore(self, saved: Tensors | None, updates: int) -> None:
        """Put the weights and moments of a checkpoint in place of the current ones; without one, those that training began with.

        A collective.
        """
        if saved is None:
            model = self._starting_policy()
            saved = StartTensors(
                {self._names[name]: parameter.detach() for name, parameter in model.named_parameters()}, self._ranks.device
            )
        self.training_state.restore(saved, updates)

    def tensors(self, dtype: str, *, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by released name, adapters merged in, on the CPU in `dtype`, gathered one by one; with `trained` those alone
        that differ from version to version. A collective: all ranks iterate to the end.
        """
        import deepspeed

        target = getattr(torch, dtype)
        for weight in lora.weights(self._model):
            if trained and not weight.is_trained:
                continue
            with deepspeed.zero.GatheredParameters(weight.parameters, enabled=self._section.zero_stage == 3):
                # the gathered storage is given back on leaving the context, so the copy is made inside
                tensor = weight.read().to(device="cpu", dtype=target, copy=True).contiguous()
            yield self._released_name(weight), tensor


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seeds whatever a rank draws in a step: a function of the run's seed, so that it needs no place in a checkpoint."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips, and that leaves the weights alone when the gradient is not finite.

    DeepSpeed's ZeRO and bfloat16 optimisers do both; its plain float32 path (stage 0) does not check.
    """

    def __init__(self, parameters: list[nn.Parameter], max_norm: float, **options: Any) -> None:
        super().__init__(parameters, **options)
        self._max_norm = max_norm
        self.overflow = False
        self._global_grad_norm = 0.0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update, unless the gradient's norm is not finite; `overflow` tells, and DeepSpeed reads it."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self._global_grad_norm = float(nn.utils.clip_grad_norm_(parameters, self._max_norm))
        self.overflow = not math.isfinite(self._global_grad_norm)
        if not self.overflow:
            super().step(closure)


def deepspeed_config(section: LearnerSection, ranks: Ranks, micro_batches: int, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration: what the section says, under `learner.deepspeed`, which wins."""
    bucket = max(1 << 16, min(500_000_000, parameters))
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # rba cuts micro-batches by groups; DeepSpeed only counts them
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": micro_batches * ranks.world_size,
        "gradient_clipping": section.max_grad_norm,
        "bf16": {"enabled": section.precision == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": section.zero_stage,
            "overlap_comm": ranks.device.type == "cuda",
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": min(bucket, 50_000_000),
        },
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    return _merged(settings, section.deepspeed)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def prepare_environment(section: LearnerSection) -> None:
    """What must be set before torch.distributed and DeepSpeed start in this process."""
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # what matters of its warnings, a skipped step, is counted
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls, once a step
    if section.cpu_threads and not torch.cuda.is_available():
        torch.set_num_threads(section.cpu_threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # Shared-memory collectives for one machine: a minute of C++ compilation per cache that gloo needs not wait for.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
