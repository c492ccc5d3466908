"""Preference pairs of a run, with the words and voices that they are about."""

from __future__ import annotations

from dataclasses import dataclass

from actors.datasets.conversion import Converted
from protocol.messages import InstructionGroup, Utterance


@dataclass(frozen=True, slots=True)
class Answer:
    """One side of a pair."""

    text: str
    utterance: Utterance
    clip: Converted | None
    """What was heard; None where the instruction was plain text."""
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """A pair: two answers, to one utterance or to two."""

    group: InstructionGroup
    chosen: Answer
    rejected: Answer
    policy_version: str = ""
    """That sampled the rejected answer, the last one where there were several."""
