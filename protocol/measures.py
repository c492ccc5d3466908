"""What an evaluation lease measures, in sums that add up over groups and over actors.

Corpus BLEU is no mean of sentence scores, so its counts travel; `summarise` turns the sums into figures.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class GroupMeasures(msgspec.Struct):
    """Sums over the answers to one group's voices, all greedy, at one policy version."""

    answers: int
    """Answers given, one an utterance."""
    exact: int
    """Answers that equal an acceptable one after normalisation."""
    bleu_counts: list[int]
    """sacrebleu's sufficient statistics: system length, reference length, then 4 matches and 4 totals by n-gram order."""
    consistency: float | None
    """Mean pairwise chrF (0 to 1) of the answers to the group's voices; None for a single voice."""
    agreement: float | None
    """Share of the pairs of voices with equal answers."""
    reward_sum: float = 0.0
    scored: int = 0
    """Answers that got a reward."""
    truncated: int = 0


def summarise(groups: Iterable[GroupMeasures]) -> dict[str, float]:
    """Figures over all groups: ``accuracy``, ``bleu`` (0 to 100), ``consistency``, ``agreement``, ``reward``, ``groups``, ``answers``.

    A figure that nothing was measured for is NaN-free: it is left out.
    """
    from sacrebleu.metrics import BLEU

    listed = list(groups)
    answers = sum(group.answers for group in listed)
    figures: dict[str, float] = {"groups": float(len(listed)), "answers": float(answers)}
    if answers:
        figures["accuracy"] = sum(group.exact for group in listed) / answers
        figures["truncated"] = sum(group.truncated for group in listed) / answers
        counts = [sum(column) for column in zip(*(group.bleu_counts for group in listed), strict=True)]
        figures["bleu"] = BLEU.compute_bleu(
            correct=counts[2:6],
            total=counts[6:10],
            sys_len=counts[0],
            ref_len=counts[1],
            smooth_method="exp",
            effective_order=not counts[9],  # where no answer has four words, shorter runs of words decide, else all were 0
        ).score
    for name in ("consistency", "agreement"):
        values = [value for group in listed if (value := getattr(group, name)) is not None]
        if values:
            figures[name] = sum(values) / len(values)
    scored = sum(group.scored for group in listed)
    if scored:
        figures["reward"] = sum(group.reward_sum for group in listed) / scored
    return figures
