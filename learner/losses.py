"""The paper's losses (arXiv 2509.03526, equations 1 to 8), in its symbols. Edge: torch.

    π_θ       the policy, π_ref the reference model, y_ref the teacher's reference
    x^(s)     the instruction spoken by voice s; y^(s) the answer sampled for it
    V^+, V^-  ratios π_θ(y|x) / π_ref(y|x) of the chosen and of the rejected answer

Everything enters as log π(y|x): the sum of a sequence's token log-probabilities, float32 ``[sequence]``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

CeReduction = Literal["token_mean", "sum"]


def log_v(log_pi: Tensor, log_pi_ref: Tensor | None) -> Tensor:
    """Log V ``[pair]`` = log π_θ(y|x) − log π_ref(y|x) (equations 3, 4, 7, 8).

    Without a reference model π_ref drops out (section 3.2: it "can be omitted"), and λ·CE holds the policy near the teacher instead.
    """
    return log_pi if log_pi_ref is None else log_pi - log_pi_ref


def per_token(log_v: Tensor, token_counts: Tensor) -> Tensor:
    """Log V / |y| ``[pair]``: ratios that long and short answers share a scale of."""
    return log_v / token_counts.clamp(min=1)


def margin(log_v_plus: Tensor, log_v_minus: Tensor, beta: float) -> Tensor:
    """β log V^+ − β log V^- ``[pair]``: how far the policy prefers the chosen answer."""
    return beta * (log_v_plus - log_v_minus)


def preference(margins: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """−log σ(β log V^+ − β log V^-) ``[pair]``: RBA-Group (equation 2) and RBA-Single (equation 6).

    They differ in what is compared. RBA-Group: one pair a group, y^(s+) on x^(s+) against y^(s-) on x^(s-), two different audios.
    RBA-Single: one pair a voice, y_ref against y^(s), both on x^(s).

    `label_smoothing` ε takes a share of the pairs to be the wrong way round: −(1−ε) log σ(m) − ε log σ(−m) (conservative DPO).
    """
    straight = -functional.logsigmoid(margins)
    if not label_smoothing:
        return straight
    return (1 - label_smoothing) * straight - label_smoothing * functional.logsigmoid(-margins)


def ipo(margins: Tensor, beta: float) -> Tensor:
    """(log V^+ − log V^- − 1/(2β))² ``[pair]`` of margins β (log V^+ − log V^-): identity preference optimisation (arXiv 2310.12036)."""
    return (margins / beta - 1 / (2 * beta)).square()


def cross_entropy(log_pi_reference: Tensor, token_counts: Tensor, reduction: CeReduction) -> Tensor:
    """−Σ_t log π_θ(y_ref,t | x^(s), y_ref,<t) ``[sequence]``: one term of equation 1's sum over voices.

    Equation 1 sums over tokens ("sum"); "token_mean" divides by the answer's length and so keeps the term's size independent of it.
    """
    return -log_pi_reference if reduction == "sum" else -log_pi_reference / token_counts.clamp(min=1)


def mean_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of `values` ``[value]`` over those of each group ``[group]``; 0 for a group without any.

    Equation 1's 1/4 Σ_s over voices, and the mean over a group's pairs.
    """
    total = values.new_zeros(groups).index_add(0, group, values)
    count = values.new_zeros(groups).index_add(0, group, values.new_ones(len(values)))
    return total / count.clamp(min=1)


def rba(preference_by_group: Tensor, ce_by_group: Tensor, lambda_ce: float) -> Tensor:
    """L = L_G + λ L_CE ``[group]`` (equation 5; with L_S in L_G's place for RBA-Single)."""
    return preference_by_group + lambda_ce * ce_by_group
