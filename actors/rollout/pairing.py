"""Preference pairs of one instruction group. Pure.

RBA-Group compares the voices: the best answer of any voice is chosen, the worst one rejected (equations 2 to 4). RBA-Single compares
each answer with the teacher's reference (equations 6 to 8). Whatever the strategy, an answer to written text never enters a pair, for
it would always win, and an answer that was cut off is never chosen, for it would teach to go on for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.schema import Strategy
from protocol.messages import REFERENCE, Completion, InstructionGroup, Outcome, PreferencePair


@dataclass(frozen=True, slots=True)
class Paired:
    """How one group ended."""

    outcome: Outcome
    pairs: list[PreferencePair] = field(default_factory=list)
    reason: str = ""


def pair(strategy: Strategy, group: InstructionGroup, completions: Sequence[Completion], min_margin: float = 0.0) -> Paired:
    """The group's outcome. `min_margin`: rewards closer than this are a tie; equal ones always are."""
    if strategy == "sft":
        return Paired(Outcome.REFERENCE_ONLY)
    heard = [index for index, each in enumerate(completions) if group.utterances[each.utterance].audio is not None and each.token_ids]
    return pair_single(group, completions, heard) if strategy == "single" else pair_group(completions, heard, min_margin)


def pair_group(completions: Sequence[Completion], heard: Sequence[int], min_margin: float) -> Paired:
    """RBA-Group: best against worst over the completions at the indices `heard`. Of equal ones the first counts."""
    rewards = {index: reward for index in heard if (reward := completions[index].reward) is not None and math.isfinite(reward)}
    if len(rewards) < 2:
        reason = f"{len(rewards)} of {len(heard)} spoken answers have a reward{_first_error(completions, heard)}"
        return Paired(Outcome.UNSCORED, reason=reason)
    ended = [index for index in rewards if completions[index].finish_reason == "stop"]
    if not ended:
        return Paired(Outcome.TRUNCATED, reason="no answer ended by itself")
    chosen = max(ended, key=lambda index: rewards[index])
    best = completions[chosen]
    others = [
        index for index in rewards if completions[index].utterance != best.utterance and not same_text(completions[index].text, best.text)
    ]
    if not others:
        return Paired(Outcome.TIED, reason="all answers are equal")
    rejected = min(others, key=lambda index: rewards[index])
    margin = rewards[chosen] - rewards[rejected]
    if margin > 0 and margin >= min_margin:
        return Paired(Outcome.PAIRS, [PreferencePair(chosen, rejected)])
    if max(rewards.values()) > rewards[chosen]:
        return Paired(Outcome.TRUNCATED, reason="only answers that were cut off are better than the others")
    return Paired(Outcome.TIED, reason=f"best and worst reward differ by {margin:.3g}")


def pair_single(group: InstructionGroup, completions: Sequence[Completion], heard: Sequence[int]) -> Paired:
    """RBA-Single: the reference against each completion at the indices `heard` that says something else."""
    pairs = [PreferencePair(REFERENCE, index) for index in heard if not same_text(completions[index].text, group.reference)]
    return Paired(Outcome.PAIRS, pairs) if pairs else Paired(Outcome.TIED, reason="every spoken answer equals the reference")


def same_text(one: str, other: str) -> bool:
    """Equal but for white space at the ends."""
    return one.strip() == other.strip()


def _first_error(completions: Sequence[Completion], heard: Sequence[int]) -> str:
    errors = [error for index in heard if (error := completions[index].reward_error)]
    return f" ({errors[0]})" if errors else ""
