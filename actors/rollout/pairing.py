"""Preference pairs of one instruction group. Pure.

RBA-Group compares the voices: the best answer of any voice is chosen, the worst one rejected (equations 2 to 4). RBA-Single compares
each answer with the teacher's reference (equations 6 to 8). The hybrid lets the reference compete with the voices' answers, so that
something is learned where every voice fails. Whatever the strategy, an answer to written text never meets one to speech, for
it would always win, and an answer that was cut off is never chosen, for it would teach to go on for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from configs.sampling import PairingSection
from configs.schema import Strategy
from protocol.messages import REFERENCE, Completion, InstructionGroup, Outcome, PreferencePair

BEST_WORST = PairingSection()


@dataclass(frozen=True, slots=True)
class Paired:
    """How one group ended."""

    outcome: Outcome
    pairs: list[PreferencePair] = field(default_factory=list)
    reason: str = ""


def pair(
    strategy: Strategy,
    group: InstructionGroup,
    completions: Sequence[Completion],
    section: PairingSection = BEST_WORST,
    reference: float | None = None,
) -> Paired:
    """The group's outcome. `reference`: the reward of the teacher's reference, for the hybrid strategy."""
    comparable = compared_utterances(strategy, group)
    if not comparable:
        return Paired(Outcome.REFERENCE_ONLY)
    heard = [index for index, each in enumerate(completions) if each.utterance in comparable and each.token_ids]
    if strategy == "single":
        return pair_single(group, completions, heard)
    rewards = {index: reward for index in heard if (reward := completions[index].reward) is not None and math.isfinite(reward)}
    with_reference = strategy == "hybrid" and reference is not None and math.isfinite(reference)
    if len(rewards) + with_reference < 2:
        reason = f"{len(rewards)} of {len(heard)} answers have a reward{_first_error(completions, heard)}"
        return Paired(Outcome.UNSCORED, reason=reason)
    candidates = [_sampled(completions, index) for index in rewards]
    if with_reference:
        candidates.append(Candidate(REFERENCE, None, group.reference, cast(float, reference), ended=True))
    return pair_group(candidates, section)


def compared_utterances(strategy: Strategy, group: InstructionGroup) -> list[int]:
    """The utterances whose answers are compared: the spoken ones; of an instruction that nobody speaks, the written ones.

    Empty where only the reference trains: plain SFT, and RBA-Group with a single way of asking.
    """
    spoken = [index for index, utterance in enumerate(group.utterances) if utterance.audio is not None]
    compared = spoken or list(range(len(group.utterances)))
    return [] if strategy == "sft" or (strategy == "group" and len(compared) < 2) else compared


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of a group with its reward."""

    index: int
    """Into the completions; `REFERENCE` for the teacher's reference, which fits every voice and is never rejected."""
    utterance: int | None
    text: str
    reward: float
    ended: bool
    """False when it was cut off."""


def _sampled(completions: Sequence[Completion], index: int) -> Candidate:
    each = completions[index]
    return Candidate(index, each.utterance, each.text, cast(float, each.reward), each.finish_reason == "stop")


def pair_group(candidates: Sequence[Candidate], section: PairingSection) -> Paired:
    """RBA-Group: best against worst of the candidates, or each against each. Of equal ones the first counts."""
    ended = [each for each in candidates if each.ended]
    if not ended:
        return Paired(Outcome.TRUNCATED, reason="no answer ended by itself")
    best = max(ended, key=lambda each: each.reward)
    others = [each for each in candidates if _comparable(best, each)]
    if not others:
        return Paired(Outcome.TIED, reason="all answers are equal")
    worst = min(others, key=lambda each: each.reward)
    if section.pairs == "all":
        couples = [(one, other) for one in ended for other in candidates if _comparable(one, other)]
    else:
        couples = [(best, worst)]
    pairs = [PreferencePair(one.index, other.index) for one, other in couples if 0 < one.reward - other.reward >= section.min_margin]
    if pairs:
        return Paired(Outcome.PAIRS, pairs)
    if max(each.reward for each in candidates) > best.reward:
        return Paired(Outcome.TRUNCATED, reason="only answers that were cut off are better than the others")
    return Paired(Outcome.TIED, reason=f"best and worst reward differ by {best.reward - worst.reward:.3g}")


def _comparable(chosen: Candidate, rejected: Candidate) -> bool:
    """Two answers to different voices that say different things."""
    return rejected.index != REFERENCE and chosen.utterance != rejected.utterance and not same_text(chosen.text, rejected.text)


def pair_single(group: InstructionGroup, completions: Sequence[Completion], heard: Sequence[int]) -> Paired:
    """RBA-Single: the reference against each completion at the indices `heard` that says something else."""
    pairs = [PreferencePair(REFERENCE, index) for index in heard if not same_text(completions[index].text, group.reference)]
    return Paired(Outcome.PAIRS, pairs) if pairs else Paired(Outcome.TIED, reason="every answer equals the reference")


def same_text(one: str, other: str) -> bool:
    """Equal but for white space at the ends."""
    return one.strip() == other.strip()


def _first_error(completions: Sequence[Completion], heard: Sequence[int]) -> str:
    errors = [error for index in heard if (error := completions[index].reward_error)]
    return f" ({errors[0]})" if errors else ""
