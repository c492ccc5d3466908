"""The whole loss of a micro-batch against a float64 loop over its groups, for every variant."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from configs.training import LossSection
from learner.clips import Clips
from learner.collate import MicroBatch, TrainingGroup, collate
from learner.logprobs import by_sequence
from learner.objective import objective
from policies.adapter import Processing
from tests.learner.groups import completion, group, item_group, item_single, result

SCALE = 3.0


def drawn(batch: MicroBatch, seed: int) -> torch.Tensor:
    return -SCALE * torch.rand(len(batch.target), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_loss(batch: MicroBatch, pi: torch.Tensor, ref: torch.Tensor | None, section: LossSection, step_groups: int) -> float:
    """Equations 1 to 8 token by token, in the paper's order."""

    def log_prob(tokens: torch.Tensor, sequence: int) -> float:
        own = [float(value) for value, number in zip(tokens, batch.sequence, strict=True) if number == sequence]
        return sum(own) / len(own) if section.length_normalization else sum(own)

    total = 0.0
    for number in range(batch.groups):
        preference, pairs = 0.0, 0
        for chosen, rejected, owner in zip(batch.chosen, batch.rejected, batch.pair_group, strict=True):
            if owner != number:
                continue
            log_v_plus, log_v_minus = log_prob(pi, chosen), log_prob(pi, rejected)
            if ref is not None:
                log_v_plus, log_v_minus = log_v_plus - log_prob(ref, chosen), log_v_minus - log_prob(ref, rejected)
            m = section.beta * log_v_plus - section.beta * log_v_minus
            if section.preference == "ipo":
                preference += (log_v_plus - log_v_minus - 1 / (2 * section.beta)) ** 2
            else:
                epsilon = section.label_smoothing
                preference += (1 - epsilon) * math.log1p(math.exp(-m)) + epsilon * math.log1p(math.exp(m))
            pairs += 1
        cross_entropy, voices = 0.0, 0
        for sequence, owner in zip(batch.ce_sequence, batch.ce_group, strict=True):
            if owner == number:
                own = [float(value) for value, one in zip(pi, batch.sequence, strict=True) if one == sequence]
                cross_entropy -= sum(own) / (len(own) if section.ce_reduction == "token_mean" else 1)
                voices += 1
        total += (preference / pairs if pairs else 0.0) + section.lambda_ce * (cross_entropy / voices if voices else 0.0)
    return total / step_groups


def several_groups() -> list[TrainingGroup]:
    tied = TrainingGroup(group(2), result([completion(0), completion(1)]))
    both = TrainingGroup(group(3, voices=4), result([completion(0), completion(1), completion(2)], [(0, 1), (0, 2), (2, 1)]))
    return [item_group(0), item_single(1), tied, both]


VARIANTS = [
    dict(zip(("preference", "length_normalization", "ce_reduction", "reference_model", "pair_prompt"), each, strict=True))
    for each in itertools.product(("sigmoid", "ipo"), (False, True), ("token_mean", "sum"), ("none", "frozen"), ("own", "chosen"))
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: "-".join(map(str, each.values())))
def test_every_variant_equals_the_slow_loop_in_value_and_gradient(variant: dict[str, Any], processing: Processing, clips: Clips) -> None:
    section = LossSection(beta=0.3, lambda_ce=0.2, label_smoothing=0.1 if variant["preference"] == "sigmoid" else 0.0, **variant)
    batch = collate(several_groups(), processing, clips, cross_entropy=True, pair_prompt=section.pair_prompt)
    pi = drawn(batch, 1).requires_grad_()
    ref = drawn(batch, 2) if section.reference_model == "frozen" else None
    reference = None
    if ref is not None:
        sums = by_sequence(ref, batch).sequences
        reference = sums[torch.as_tensor(batch.chosen)], sums[torch.as_tensor(batch.rejected)]
    loss, figures = objective(batch, by_sequence(pi, batch), reference, section, step_groups=5)
    assert loss.item() == pytest.approx(slow_loss(batch, pi.detach(), ref, section, 5), rel=1e-10)
    assert (figures.groups, figures.groups_with_pairs, figures.pairs) == (4, 3, 7)
    (gradient,) = torch.autograd.grad(loss, pi)
    for place in np.random.default_rng(0).integers(0, len(pi), 6):
        shift = torch.zeros_like(pi)
        shift[place] = 1e-6
        ahead, behind = (slow_loss(batch, pi.detach() + sign * shift, ref, section, 5) for sign in (1, -1))
        assert float(gradient[place]) == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


def test_the_first_loss_with_a_frozen_reference_is_log_2(processing: Processing, clips: Clips) -> None:
    batch = collate([item_group(0), item_single(1)], processing, clips, cross_entropy=False)
    policy = by_sequence(drawn(batch, 1), batch)
    reference = policy.sequences[torch.as_tensor(batch.chosen)], policy.sequences[torch.as_tensor(batch.rejected)]
    loss, _ = objective(batch, policy, reference, LossSection(lambda_ce=0, reference_model="frozen"), step_groups=2)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("alarm", [0.2, 1.0, 5.0])
def test_completions_off_their_sampler_are_counted_one_by_one(alarm: float, processing: Processing, clips: Clips) -> None:
    batch = collate(several_groups(), processing, clips, cross_entropy=True)
    tokens = drawn(batch, 1)
    _, figures = objective(batch, by_sequence(tokens, batch), None, LossSection(), step_groups=4, gap_alarm=alarm)
    off, sampled = 0, 0
    for sequence in range(len(batch.token_counts)):
        own = [place for place in range(len(batch.target)) if batch.sequence[place] == sequence]
        gaps = [
            abs(float(tokens[place]) - float(batch.sampler_logprobs[place])) for place in own if np.isfinite(batch.sampler_logprobs[place])
        ]
        sampled += bool(gaps)
        off += bool(gaps) and sum(gaps) / len(gaps) > alarm
    assert (figures.sampled, figures.off) == (sampled, off)
    assert 0 < sampled < len(batch.token_counts)  # the references were not sampled
