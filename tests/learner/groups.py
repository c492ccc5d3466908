"""Instruction groups and group results for tests of the learner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learner.collate import TrainingGroup
from protocol.messages import (
    REFERENCE,
    Completion,
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    Utterance,
    VersionSpan,
)

END = 2
"""`<|im_end|>` of the tiny checkpoint."""


def group(number: int = 0, voices: int = 3, *, text: bool = False, reference: str = "the answer is seven") -> InstructionGroup:
    """One instruction spoken by `voices` voices (audio "<number>-<voice>"), and written as well with `text`."""
    utterances = [Utterance(f"voice-{voice}", f"{number}-{voice}", 1.0) for voice in range(voices)]
    if text:
        utterances.append(Utterance("text"))
    return InstructionGroup(f"group-{number}", "what is three plus four", reference, utterances, prompt="in words", topic="sums")


def completion(
    utterance: int, token_ids: Sequence[int] = (40, 41, END), *, step: int = 0, finish: str = "stop", reward: float | None = 0.5
) -> Completion:
    """A sampled answer, all of it by version 0.`step`."""
    ids = np.asarray(token_ids, "<i4")
    return Completion(
        utterance=utterance,
        token_ids=ids.tobytes(),
        logprobs=np.full(len(ids), -1.5, "<f4").tobytes(),
        text=f"answer {utterance}",
        finish_reason=finish,  # type: ignore[arg-type]
        spans=[VersionSpan(PolicyVersion(0, step), 0, len(ids))],
        reward=reward,
    )


def result(
    completions: Sequence[Completion] = (), pairs: Sequence[tuple[int, int]] = (), outcome: Outcome | None = None, *, ordinal: int = 0
) -> GroupResult:
    """One group's outcome; by default PAIRS or TIED."""
    chosen = outcome or (Outcome.PAIRS if pairs else Outcome.TIED)
    return GroupResult(
        ordinal, 0, f"group-{ordinal}", chosen, completions=list(completions), pairs=[PreferencePair(*pair) for pair in pairs]
    )


def item_group(number: int = 0, **options: bool) -> TrainingGroup:
    """RBA-Group: voice 2 beats voice 0."""
    rng = np.random.default_rng(number)
    sampled = [completion(voice, [*rng.integers(10, 300, 3 + voice).tolist(), END]) for voice in range(3)]
    return TrainingGroup(group(number, **options), result(sampled, [(2, 0)]))


def item_single(number: int = 0, **options: bool) -> TrainingGroup:
    """RBA-Single: the reference beats each of three voices."""
    rng = np.random.default_rng(number)
    sampled = [completion(voice, [*rng.integers(10, 300, 3 + voice).tolist(), END]) for voice in range(3)]
    return TrainingGroup(group(number, **options), result(sampled, [(REFERENCE, voice) for voice in range(3)]))


def leased(number: int = 0, purpose: Purpose = Purpose.TRAIN, **options: bool) -> LeasedGroup:
    """The lease that a result answers."""
    return LeasedGroup(number, 0, group(number, **options), purpose)
