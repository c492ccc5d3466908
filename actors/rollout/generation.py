"""What a rollout actor asks of its engine, whichever it is: an answer to one utterance, and new weights while it answers others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.errors import RbaError
from protocol.messages import FinishReason, PolicyVersion, VersionSpan
from protocol.weights.messages import Fetched


class UnusableInputError(RbaError):
    """One request that cannot be answered, while others can."""


class RefusedVersionError(RbaError):
    """A policy version is not what it should be. Nothing was touched, the old version goes on serving."""


class EngineFailedError(RbaError):
    """The engine is of no use any more."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to sample."""

    request_id: str
    """Unique among the requests under way."""
    prompt_ids: list[int]
    """Token ids of the prompt; with `samples`, the audio placeholder is one token (`Processing.compact_ids`)."""
    samples: NDArray[np.float32] | None
    """Mono audio at the processing's rate, float32 ``[sample]``; None for a written instruction."""
    seed: int
    max_tokens: int
    """Longest answer."""
    greedy: bool = False
    """The likeliest token each time, whatever the run's sampling section says."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled answer."""

    token_ids: list[int]
    """Ends with the end-of-sequence token when `finish_reason` is "stop"."""
    logprobs: list[float]
    """Of each token, before temperature and truncation of the distribution (as the learner computes them)."""
    text: str
    """Without special tokens."""
    finish_reason: FinishReason
    spans: list[VersionSpan]
    """Which policy version wrote which tokens; they cover all tokens, in order."""
    prompt_tokens: int
    """Length of the prompt as the model saw it, with one token for each audio embedding."""


class GenerationEngine(Protocol):
    """Answers many requests at once. All methods belong to one event loop."""

    @property
    def description(self) -> str:
        """Name and version, for people."""
        ...

    async def start(self, version: PolicyVersion) -> None:
        """Load the checkpoint, whose weights are called `version` until others are applied. Raises `UserError` for unusable settings."""
        ...

    async def generate(self, request: GenerationRequest) -> Generated:
        """Sample one answer; cancelling gives its place free. Raises `UnusableInputError`, and `EngineFailedError` once and for all."""
        ...

    async def apply(self, fetched: Fetched) -> float:
        """Change to another policy version, whole or not at all, and return for how many seconds generation paused.

        Answers under way are neither lost nor begun anew: their spans tell where the new version took over. Nothing that was computed
        with the old weights is used afterwards, neither audio embeddings nor keys and values. One call at a time.

        Raises `RefusedVersionError` while the old version serves on, and `EngineFailedError` when it does not.
        """
        ...

    def raise_if_failed(self) -> None:
        """Raise `EngineFailedError` when the engine has died."""
        ...

    async def close(self) -> None:
        """End the engine and every process of it; requests under way fail. Allowed at any time, also twice."""
        ...
