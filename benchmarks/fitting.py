"""How large a model a learner of one rank can train in a GPU's memory. Pure; estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.flops import Work
from benchmarks.speechlm import Size

BYTES_PER_PARAMETER = 18
"""Weights and gradients in bfloat16, master weights and two moments in float32; autocast on float32 weights comes to the same."""
SPARE_BYTES = 14 << 30
"""Communication buckets, float32 gradients of one group of parameters, the allocator's gaps."""


def parameters(size: Size) -> int:
    """Of the whole model, up to norms and biases."""
    tower = size.audio
    text = size.layers * (4 * size.hidden**2 + 3 * size.hidden * size.inner) + 2 * size.vocabulary * size.hidden
    audio = tower.layers * (4 * tower.width**2 + 2 * tower.width * tower.intermediate) + 3 * tower.width * (tower.mel + tower.width)
    return text + audio + tower.width * size.hidden


def activation_bytes(size: Size, work: Work) -> int:
    """About what the learner keeps of a step for its backward pass, without gradient checkpointing.

    A layer keeps, for each position, some 36 bytes a unit of its width (norms in float32, projections, residuals) and 8 a unit of its
    inner width, of which a layer of the tower has less; the vocabulary takes 12 bytes an answer token (logits, float32, gradients).
    """
    tower = size.audio
    text = work.tokens * size.layers * (36 * size.hidden + 8 * size.inner) + work.answer_tokens * 12 * size.vocabulary
    return text + sum(work.clips) // 2 * tower.layers * (36 * tower.width + 6 * tower.intermediate)


def layers_that_fit(size: Size, works: Sequence[Work], memory_bytes: int) -> int:
    """The most layers of the language model, at least 1, that the learner can train on each of `works`."""
    for layers in range(size.layers, 1, -1):
        less = replace(size, layers=layers)
        kept = max(activation_bytes(less, work) for work in works)
        if BYTES_PER_PARAMETER * parameters(less) + kept + SPARE_BYTES <= memory_bytes:
            return layers
    return 1
