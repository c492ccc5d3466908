"""How many floating-point operations a learner's step needs. Pure.

Counted are the matrix products and convolutions of one forward pass and of its backward pass, which takes twice as many: the layers'
projections, attention's two products over a row's positions (all of them, causal or not, as kernels that take a mask compute them),
the audio tower, the projector, and the vocabulary's projection of the answer tokens. Not counted are padding, what gradient
checkpointing computes again, normalisation, softmax, embedding look-ups and the optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speechlm import Size
from learner.collate import PADDING, MicroBatch

BACKWARD = 2
"""A product's two gradients cost as much as the product, each."""


@dataclass(frozen=True)
class Work:
    """What a step computes on."""

    rows: Sequence[int]
    """Positions of each row, padding left out."""
    answer_tokens: int
    clips: Sequence[int]
    """Log-mel frames of each clip, padding left out."""

    @property
    def tokens(self) -> int:
        """Positions of the language model."""
        return sum(self.rows)


def work_of(batch: MicroBatch) -> Work:
    """The work of a micro-batch."""
    rows = (batch.branch != PADDING).sum(axis=1).tolist()
    return Work(rows, len(batch.target), batch.frame_mask.sum(axis=1).tolist())


def forward_flops(size: Size, work: Work) -> int:
    """Of one forward pass; a multiplication and an addition count as two."""
    hidden = size.hidden
    layer_weights = 4 * hidden * hidden + 3 * hidden * size.inner
    attended = sum(row * row for row in work.rows)
    text = size.layers * (2 * layer_weights * work.tokens + 4 * hidden * attended)
    head = 2 * hidden * size.vocabulary * work.answer_tokens
    return text + head + sum(_clip_flops(size, frames) for frames in work.clips)


def step_flops(size: Size, work: Work) -> int:
    """Of forward and backward pass."""
    return (1 + BACKWARD) * forward_flops(size, work)


def _clip_flops(size: Size, frames: int) -> int:
    """Two convolutions of 3 frames, the second with stride 2; the tower on every second frame; the projector on every fourth."""
    tower, positions = size.audio, -(-frames // 2)
    convolutions = 2 * 3 * tower.width * (tower.mel * frames + tower.width * positions)
    layer_weights = 4 * tower.width**2 + 2 * tower.width * tower.intermediate
    layers = tower.layers * (2 * layer_weights * positions + 4 * tower.width * positions * positions)
    return convolutions + layers + 2 * tower.width * size.hidden * (positions // 2)
