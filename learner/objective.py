"""A micro-batch's log-probabilities → the loss to step on and the figures to report. Edge: torch."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from configs.training import LossSection
from learner.collate import MicroBatch
from learner.figures import Figures
from learner.logprobs import LogProbs
from learner.losses import cross_entropy, ipo, log_v, margin, mean_by_group, per_token, preference, rba


def objective(
    batch: MicroBatch,
    policy: LogProbs,
    reference: tuple[Tensor, Tensor] | None,
    section: LossSection,
    step_groups: int,
    gap_alarm: float = math.inf,
) -> tuple[Tensor, Figures]:
    """The micro-batch's share of the step's loss (a scalar), and its figures.

    The step's loss is the mean of equation 5 over all `step_groups` groups of the step, on all ranks. A group without a pair keeps
    its share of the mean and adds λ L_CE alone, so that ties do not raise the weight of the pairs beside them.
    `gap_alarm`: mean difference per token, in nats, from which on a completion counts as off its sampler.
    `reference` holds log π_ref of the pairs' chosen and rejected answers, each ``[pair]``.
    """
    put = partial(torch.as_tensor, device=policy.sequences.device)
    chosen, rejected, pair_group = put(batch.chosen), put(batch.rejected), put(batch.pair_group)
    ce_sequence, ce_group = put(batch.ce_sequence), put(batch.ce_group)
    counts = put(batch.token_counts)
    ce_losses = cross_entropy(policy.sequences[ce_sequence], counts[ce_sequence], section.ce_reduction)
    log_ref_chosen, log_ref_rejected = reference if reference is not None else (None, None)

    def log_ratio(side: Tensor, log_ref: Tensor | None) -> Tensor:
        ratio = log_v(policy.sequences[side], log_ref)
        return per_token(ratio, counts[side]) if section.length_normalization else ratio

    margins = margin(log_ratio(chosen, log_ref_chosen), log_ratio(rejected, log_ref_rejected), section.beta)
    pair_losses = ipo(margins, section.beta) if section.preference == "ipo" else preference(margins, section.label_smoothing)
    by_group = rba(
        mean_by_group(pair_losses, pair_group, batch.groups), mean_by_group(ce_losses, ce_group, batch.groups), section.lambda_ce
    )
    # a row without answers has no loss; 0 × the sum keeps its backward pass on every rank
    loss = by_group.sum() / step_groups + 0.0 * policy.tokens.sum()
    return loss, _figures(batch, policy, margins.detach(), pair_losses.detach(), ce_losses.detach(), by_group.detach(), gap_alarm)


def _figures(
    batch: MicroBatch,
    policy: LogProbs,
    margins: Tensor,
    pair_losses: Tensor,
    ce_losses: Tensor,
    by_group: Tensor,
    gap_alarm: float,
) -> Figures:
    put = partial(torch.as_tensor, device=margins.device)
    gaps = (policy.tokens.detach() - put(batch.sampler_logprobs)).abs()
    sampled = gaps.isfinite()
    sequence = put(batch.sequence)[sampled]
    compared = torch.bincount(sequence, minlength=len(batch.token_counts))
    gap_sums = gaps.new_zeros(len(batch.token_counts)).index_add(0, sequence, gaps[sampled])
    return Figures(
        loss=float(by_group.sum()),
        preference=float(mean_by_group(pair_losses, put(batch.pair_group), batch.groups).sum()),
        cross_entropy=float(mean_by_group(ce_losses, put(batch.ce_group), batch.groups).sum()),
        margin=float(margins.sum()),
        preferred=float((margins > 0).sum()),
        groups=batch.groups,
        groups_with_pairs=len(set(batch.pair_group.tolist())),
        groups_with_ce=len(set(batch.ce_group.tolist())),
        pairs=len(batch.chosen),
        answer_tokens=len(batch.target),
        computed_tokens=batch.tokens,
        clips=len(batch.features),
        sampler_gap=float(gaps[sampled].sum()),
        sampler_tokens=float(sampled.sum()),
        sampled=float((compared > 0).sum()),
        off=float((gap_sums > gap_alarm * compared).sum()),
    )
