"""The paper's formulas against slow float64 loops close to its notation, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learner.losses import cross_entropy, ipo, log_v, margin, mean_by_group, per_token, preference, rba

BETA, LAMBDA = 0.1, 0.2


def slow_preference(
    pi_plus: list[float], pi_minus: list[float], ref_plus: list[float] | None, ref_minus: list[float] | None, beta: float
) -> list[float]:
    """Equations 2 to 4 (and 6 to 8) pair by pair, deliberately inefficient."""
    losses = []
    for index in range(len(pi_plus)):
        v_plus = math.exp(pi_plus[index] - (ref_plus[index] if ref_plus else 0.0))
        v_minus = math.exp(pi_minus[index] - (ref_minus[index] if ref_minus else 0.0))
        inner = beta * math.log(v_plus) - beta * math.log(v_minus)
        losses.append(-math.log(1.0 / (1.0 + math.exp(-inner))))
    return losses


def slow_cross_entropy(token_logprobs: list[list[list[float]]], *, mean: bool) -> list[float]:
    """Equation 1 for each group: tokens of each voice, then the mean over voices."""
    losses = []
    for voices in token_logprobs:
        total = 0.0
        for tokens in voices:
            total += -sum(tokens) / (len(tokens) if mean else 1)
        losses.append(total / len(voices) if voices else 0.0)
    return losses


def numeric_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    out = torch.zeros_like(at)
    for index in range(len(at)):
        shift = torch.zeros_like(at)
        shift[index] = 1e-6
        out[index] = (function(at + shift) - function(at - shift)) / 2e-6
    return out


def logps(count: int, seed: int) -> Tensor:
    return -20 * torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("with_reference", [False, True])
def test_preference_equals_the_slow_loop(with_reference: bool) -> None:
    pi_plus, pi_minus, ref_plus, ref_minus = (logps(6, seed) for seed in range(4))
    references = (ref_plus, ref_minus) if with_reference else (None, None)
    fast = preference(margin(log_v(pi_plus, references[0]), log_v(pi_minus, references[1]), BETA))
    slow = slow_preference(
        pi_plus.tolist(),
        pi_minus.tolist(),
        ref_plus.tolist() if with_reference else None,
        ref_minus.tolist() if with_reference else None,
        BETA,
    )
    assert fast.tolist() == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("side", ["plus", "minus"])
def test_preference_gradient(side: str) -> None:
    """d/d log π(y+) is -β σ(-margin), and the opposite for the rejected answer."""
    pi_plus, pi_minus, ref_plus, ref_minus = (logps(5, seed + 10) for seed in range(4))

    def loss(value: Tensor) -> Tensor:
        plus, minus = (value, pi_minus) if side == "plus" else (pi_plus, value)
        return preference(margin(log_v(plus, ref_plus), log_v(minus, ref_minus), BETA)).sum()

    at = (pi_plus if side == "plus" else pi_minus).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    torch.testing.assert_close(gradient, numeric_gradient(loss, at.detach()), atol=1e-7, rtol=1e-6)
    margins = margin(log_v(pi_plus, ref_plus), log_v(pi_minus, ref_minus), BETA)
    expected = BETA * torch.sigmoid(-margins) * (-1 if side == "plus" else 1)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_equals_the_slow_loop(smoothing: float) -> None:
    margins = logps(6, 3) + 10
    slow = []
    for m in margins.tolist():
        right, wrong = 1 / (1 + math.exp(-m)), 1 / (1 + math.exp(m))
        slow.append(-(1 - smoothing) * math.log(right) - smoothing * math.log(wrong))
    assert preference(margins, smoothing).tolist() == pytest.approx(slow, rel=1e-12)
    at = margins.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(preference(at, smoothing).sum(), at)
    torch.testing.assert_close(gradient, torch.sigmoid(margins) - (1 - smoothing))


def test_ipo_equals_the_slow_loop() -> None:
    pi_plus, pi_minus, ref_plus, ref_minus = (logps(6, seed + 40) for seed in range(4))
    found = ipo(margin(log_v(pi_plus, ref_plus), log_v(pi_minus, ref_minus), BETA), BETA)
    slow = []
    for plus, minus, r_plus, r_minus in zip(pi_plus.tolist(), pi_minus.tolist(), ref_plus.tolist(), ref_minus.tolist(), strict=True):
        h = math.log(math.exp(plus - r_plus) / math.exp(minus - r_minus))
        slow.append((h - 1 / (2 * BETA)) ** 2)
    assert found.tolist() == pytest.approx(slow, rel=1e-9)

    def loss(value: Tensor) -> Tensor:
        return ipo(margin(log_v(value, ref_plus), log_v(pi_minus, ref_minus), BETA), BETA).sum()

    at = pi_plus.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    torch.testing.assert_close(gradient, numeric_gradient(loss, pi_plus), atol=1e-5, rtol=1e-6)


def test_per_token_divides_by_the_length() -> None:
    assert per_token(torch.tensor([-6.0, -5.0, 0.0]), torch.tensor([3, 2, 0])).tolist() == [-2.0, -2.5, 0.0]


def test_first_loss_with_a_frozen_reference_is_log_2() -> None:
    chosen, rejected = logps(7, 1).float(), logps(7, 2).float()
    losses = preference(margin(log_v(chosen, chosen.clone()), log_v(rejected, rejected.clone()), BETA))
    assert losses.tolist() == pytest.approx([math.log(2)] * 7, rel=1e-6)


def test_preference_stays_finite_far_from_balance() -> None:
    far = torch.tensor([-5000.0, 5000.0])
    assert preference(far).tolist() == pytest.approx([5000.0, 0.0])


@pytest.mark.parametrize("reduction", ["token_mean", "sum"])
def test_cross_entropy_equals_the_slow_loop(reduction: str) -> None:
    lengths = [[3, 5], [2], [4, 1, 6], []]  # the last group has no voice at all
    tokens = [[logps(length, 31 * number + voice).tolist() for voice, length in enumerate(voices)] for number, voices in enumerate(lengths)]
    sums = torch.tensor([sum(voice) for voices in tokens for voice in voices], dtype=torch.float64)
    counts = torch.tensor([length for voices in lengths for length in voices])
    owner = torch.tensor([number for number, voices in enumerate(lengths) for _ in voices])
    fast = mean_by_group(cross_entropy(sums, counts, reduction), owner, 4)  # type: ignore[arg-type]
    assert fast.tolist() == pytest.approx(slow_cross_entropy(tokens, mean=reduction == "token_mean"), rel=1e-12)


def test_cross_entropy_gradient_is_shared_over_voices_and_tokens() -> None:
    sums = logps(3, 5).requires_grad_()
    counts, owner = torch.tensor([4, 2, 5]), torch.tensor([0, 0, 1])
    (gradient,) = torch.autograd.grad(mean_by_group(cross_entropy(sums, counts, "token_mean"), owner, 2).sum(), sums)
    assert gradient.tolist() == pytest.approx([-1 / 8, -1 / 4, -1 / 5])


def test_equation_5_adds_lambda_times_the_cross_entropy() -> None:
    total = rba(torch.tensor([0.7, 0.0]), torch.tensor([2.0, 3.0]), LAMBDA)
    assert total.tolist() == pytest.approx([0.7 + 0.4, 0.6])
