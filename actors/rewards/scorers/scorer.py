"""The interface of every scorer, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from actors.rewards.items import RewardItem, RewardScore
from configs.sampling import RewardsSection
from protocol.errors import UserError

JUDGING = 0.6
"""Of the time that a client waits, what a batch of a judge may take; the rest is for the queue and the way."""


class Scorer(Protocol):
    """Scores answers; called from one thread."""

    @property
    def signature(self) -> str:
        """Names the scorer exactly enough to repeat its scores."""
        ...

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """One outcome an item, in order; an item that cannot be scored gets an error, and harms no other."""
        ...


@runtime_checkable
class Weighing(Protocol):
    """A scorer whose work depends on the length of an item."""

    def cost(self, item: RewardItem) -> int:
        """Tokens of the item, all of them those that `score` will compute. Called from the thread of `score`, before it."""
        ...


@runtime_checkable
class Unwrapping(Protocol):
    """A scorer that renders conversations itself."""

    def instruction_of(self, prompt: str) -> str:
        """The instruction within a prompt that was rendered already; any other prompt as it is."""
        ...


def unwrap(scorer: Scorer, prompt: str) -> str:
    """`prompt` without what the scorer would write around it once more."""
    return scorer.instruction_of(prompt) if isinstance(scorer, Unwrapping) else prompt


def cost_of(scorer: Scorer) -> Callable[[RewardItem], int]:
    """What an item costs: tokens where the scorer tells them, else 1."""
    return scorer.cost if isinstance(scorer, Weighing) else lambda _item: 1


def open_scorer(section: RewardsSection) -> Scorer:
    """The scorer that `section.scorer` names. Raises `UserError` when its checkpoint, judge or function is missing or is something else.

    What only one of them needs, such as torch, is imported here and not before: a BLEU server stays small.
    """
    match section.scorer:
        case "bleu":
            from actors.rewards.scorers.bleu import BleuScorer

            return BleuScorer()
        case "chrf":
            from actors.rewards.scorers.chrf import ChrfScorer

            return ChrfScorer()
        case "qa":
            from actors.rewards.scorers.qa import QaScorer

            return QaScorer(section.qa)
        case "judge":
            from actors.rewards.scorers.judge import JudgeScorer

            return JudgeScorer(section.judge, "rewards.judge", limit_s=JUDGING * section.timeout_s)
        case "python":
            from actors.rewards.scorers.function import FunctionScorer

            return FunctionScorer(section.python, "rewards.python")
        case "armorm":
            from actors.rewards.scorers.armorm import ArmoScorer

            return ArmoScorer(section)
        case "seqcls":
            from actors.rewards.scorers.sequence_classifier import SequenceClassifierScorer

            return SequenceClassifierScorer(section)
        case "combination":
            return _open_combination(section)


def _open_combination(section: RewardsSection) -> Scorer:
    from actors.rewards.scorers.combination import CombinationScorer, Part

    if not any(part.weight for part in section.combination.values()):
        fix = "set rewards.combination.NAME.scorer (and .weight) for each part"
        raise UserError("the combination has no parts of a weight", where="rewards.combination", fix=fix)
    parts = {}
    judges = sum(part.scorer == "judge" for part in section.combination.values())
    share = {"timeout_s": section.timeout_s / max(1, judges)}  # they are asked one after the other
    for name, part in section.combination.items():
        try:
            parts[name] = Part(open_scorer(section.alone(name).model_copy(update=share)), part.weight)
        except UserError as error:
            where = error.where.replace("rewards.", f"rewards.combination.{name}.", 1)
            raise UserError(error.what, where=where, fix=error.fix) from error
    return CombinationScorer(parts)
