"""What comes in, what is trained and what is dropped. Pure: no clock, no sockets, no tensors.

Every unique group result ends in exactly one place, counted in groups: ``unique = trained + dropped{reason} + queued``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from configs.schema import Strategy
from configs.training import LossSection
from learner.collate import TrainingGroup, ce_voices
from protocol.messages import REFERENCE, Completion, GroupResult, LeasedGroup, Outcome, PolicyVersion


class Drop(StrEnum):
    """Why a unique group result trains nobody."""

    STALE = "stale"
    """A pair is older than `max_policy_lag` learner steps, or was sampled by weights that a rollback gave up."""
    NO_SIGNAL = "no_signal"
    """No pair, and no cross-entropy to train instead."""
    FILTERED = "filtered"
    """The actor could not use its input."""
    INVALID = "invalid"
    """It breaks the rules of pairing; a bug of its sender."""
    EVALUATED = "evaluated"
    """Held-out: it was measured."""
    NONFINITE = "nonfinite"
    """Its step was skipped, for a loss or a gradient was not finite."""
    SET_ASIDE = "set_aside"
    """Its group was set aside after it had been leased."""
    STOPPED = "stopped"
    """Still queued when the run ended."""


@dataclass(slots=True)
class Counts:
    """The learner's side of the ledger, in group results; and the same in pairs."""

    unique: int = 0
    trained: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    pairs_unique: int = 0
    pairs_trained: int = 0
    pairs_dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's groups, with the lag of each that has pairs."""

    items: list[TrainingGroup]
    lags: list[int]


class Intake:
    """The queue between the actors' results and the step."""

    def __init__(
        self,
        strategy: Strategy,
        loss: LossSection,
        max_policy_lag: int,
        lineage: int,
        vocabulary: int,
        counts: Counts | None = None,
        ancestry: Mapping[int, int] | None = None,
    ) -> None:
        """`counts` are those of the run's earlier lives; `ancestry` are their lineages, and the last step of each that is part of this."""
        self._strategy, self._loss, self._max_policy_lag, self._lineage = strategy, loss, max_policy_lag, lineage
        self._ancestry = ancestry or {}
        self._vocabulary = vocabulary
        self._trains_ce = strategy == "sft" or loss.lambda_ce > 0
        self._queue: deque[TrainingGroup] = deque()
        self._in_training: list[TrainingGroup] = []
        self._fresh, self._fresh_at = 0, -1
        """So many of the queue, from its head, are known not to be stale at that step."""
        self._set_aside: set[str] = set()
        self._oldest_step = 0
        """Versions of earlier steps come from weights that are given up."""
        self.counts = counts or Counts()
        self.dropped: list[tuple[int, str]] = []
        """(ordinal, reason) of what was dropped; whoever keeps a record of it empties the list."""

    @property
    def queued(self) -> int:
        """Groups that wait for a step, those of the current step included."""
        return len(self._queue) + len(self._in_training)

    @property
    def queued_ordinals(self) -> list[int]:
        """Of the groups that wait for a step."""
        return [item.result.ordinal for item in self._queue]

    def receive(self, leased: LeasedGroup | None, result: GroupResult, unusable: str = "") -> str:
        """Take one unique result of `leased` (None when its ordinal is not open); `unusable` says why the learner cannot use its audio.

        Returns "" when it is queued, else why it was dropped: a `Drop`, and more about it after a colon.
        """
        self.counts.unique += 1
        self.counts.pairs_unique += len(result.pairs)
        if leased is None:
            return f"{self._drop(result, Drop.INVALID)}: ordinal {result.ordinal} is not open"
        item = TrainingGroup(leased.group, result)
        if result.outcome is Outcome.EVALUATED or leased.purpose != result.purpose:
            return self._drop(result, Drop.EVALUATED if leased.purpose == result.purpose else Drop.INVALID)
        if result.outcome is Outcome.FILTERED or unusable:
            return f"{self._drop(result, Drop.FILTERED)}: {unusable or result.reason}"
        if leased.group.group_id != result.group_id:
            return f"{self._drop(result, Drop.INVALID)}: {result.group_id} under the ordinal of {leased.group.group_id}"
        if leased.group.group_id in self._set_aside:
            return self._drop(result, Drop.SET_ASIDE)
        fault = find_fault(item, self._strategy, self._vocabulary)
        if fault:
            return f"{self._drop(result, Drop.INVALID)}: {fault}"
        if not result.pairs and not (self._trains_ce and ce_voices(item, self._loss.ce_utterances)):
            return self._drop(result, Drop.NO_SIGNAL)
        self._queue.append(item)
        return ""

    def take(self, groups: int, learner_step: int) -> Batch | None:
        """The next batch at `learner_step` finished steps, oldest results first; None while too few are queued.

        Stale groups are dropped on the way. What is taken counts as queued until `trained` or `skipped`.
        """
        if learner_step != self._fresh_at:
            self._fresh, self._fresh_at = 0, learner_step
        unknown = [self._queue.pop() for _ in range(len(self._queue) - self._fresh)]
        for item in reversed(unknown):
            if self._lag(item, learner_step) > self._max_policy_lag:
                self._drop(item.result, Drop.STALE)
            else:
                self._queue.append(item)
        self._fresh = len(self._queue)
        if self._fresh < groups:
            return None
        self._in_training = [self._queue.popleft() for _ in range(groups)]
        self._fresh -= groups
        return Batch(self._in_training, [self._lag(item, learner_step) for item in self._in_training if item.result.pairs])

    def take_again(self, ordinals: Sequence[int], learner_step: int) -> Batch:
        """The batch of these groups, which an earlier life took. Raises `KeyError` for one that is not in the queue."""
        held = {item.result.ordinal: item for item in self._queue}
        taken = [held.pop(ordinal) for ordinal in ordinals]
        self._queue, self._fresh = deque(held.values()), 0
        self.take(1 << 62, learner_step)  # drops what is stale, as that life did
        self._in_training = taken
        return Batch(taken, [self._lag(item, learner_step) for item in taken if item.result.pairs])

    def give_back(self) -> None:
        """The batch that was taken is not trained after all; it comes first again."""
        self._queue.extendleft(reversed(self._in_training))
        self._in_training, self._fresh = [], 0

    def trained(self) -> None:
        """The batch that was taken has changed the weights."""
        self.counts.trained += len(self._in_training)
        self.counts.pairs_trained += sum(len(item.result.pairs) for item in self._in_training)
        self._in_training = []

    def skipped(self) -> None:
        """The batch that was taken changed nothing: its loss or gradient was not finite."""
        for item in self._in_training:
            self._drop(item.result, Drop.NONFINITE)
        self._in_training = []

    def set_aside(self, groups: Iterable[str], learner_step: int) -> None:
        """The weights of `learner_step` are older ones again: what was sampled before it is stale. `groups`, by id, train no more."""
        self._set_aside.update(groups)
        self._oldest_step = learner_step
        rest: deque[TrainingGroup] = deque()
        for item in self._queue:
            if item.group.group_id in self._set_aside:
                self._drop(item.result, Drop.SET_ASIDE)
            else:
                rest.append(item)
        self._queue, self._fresh = rest, 0

    def clear(self) -> None:
        """The run ends; what is still queued is dropped."""
        for item in self._queue:
            self._drop(item.result, Drop.STOPPED)
        self._queue.clear()
        self._fresh = 0

    def _lag(self, item: TrainingGroup, learner_step: int) -> int:
        """Learner steps since the oldest token of either side of a pair was sampled; without pairs nothing can be old."""
        completions = item.result.completions
        indices = {index for pair in item.result.pairs for index in (pair.chosen, pair.rejected)} - {REFERENCE}
        versions = {span.version for index in indices for span in completions[index].spans}
        return learner_step - min(
            (version.step if self._is_ancestor(version) else -(1 << 60) for version in versions), default=learner_step
        )

    def _is_ancestor(self, version: PolicyVersion) -> bool:
        """True when the current weights come from `version`."""
        ours = version.lineage == self._lineage or version.step <= self._ancestry.get(version.lineage, -1)
        return ours and version.step >= self._oldest_step

    def _drop(self, result: GroupResult, reason: Drop) -> str:
        self.counts.dropped[reason.value] += 1
        self.dropped.append((result.ordinal, reason.value))
        if result.pairs:
            self.counts.pairs_dropped[reason.value] += len(result.pairs)
        return reason.value


def find_fault(item: TrainingGroup, strategy: Strategy, vocabulary: int) -> str:
    """What is wrong with a result, or "". The rules of pairing: text never meets speech, a truncated completion is never chosen,
    RBA-Group compares two voices, RBA-Single compares the reference with a completion, the hybrid does both.
    """
    group, result = item.group, item.result
    fault = _fault_in_completions(result.completions, len(group.utterances), vocabulary)
    if fault:
        return fault
    if result.pairs and strategy == "sft":
        return "plain SFT has no pairs"
    spoken = any(utterance.audio is not None for utterance in group.utterances)
    for pair in result.pairs:
        sides = [pair.rejected] if pair.chosen == REFERENCE else [pair.chosen, pair.rejected]
        if any(not 0 <= index < len(result.completions) for index in sides):
            return f"pair {pair} names a completion that is not there"
        used = [result.completions[index] for index in sides]
        if strategy == ("group" if pair.chosen == REFERENCE else "single"):
            return f"pair {pair} does not belong to strategy {strategy}"
        if spoken and any(group.utterances[completion.utterance].audio is None for completion in used):
            return f"pair {pair} holds an answer to text"
        if any(not completion.token_ids for completion in used):
            return f"pair {pair} holds an empty answer"
        if len(used) == 2 and (used[0].finish_reason != "stop" or used[0].utterance == used[1].utterance):
            return f"pair {pair} has a truncated chosen answer, or two answers to one voice"
    return ""


def _fault_in_completions(completions: Sequence[Completion], utterances: int, vocabulary: int) -> str:
    for index, completion in enumerate(completions):
        if not 0 <= completion.utterance < utterances:
            return f"completion {index} names utterance {completion.utterance}, which the group lacks"
        if len(completion.token_ids) % 4 or len(completion.logprobs) != len(completion.token_ids):
            return (
                f"completion {index} has {len(completion.token_ids)} bytes of token ids and {len(completion.logprobs)} of log-probabilities"
            )
    # All at once, and as unsigned numbers, of which a negative one is large: few results hold a fault.
    if np.frombuffer(b"".join(completion.token_ids for completion in completions), dtype="<u4").max(initial=0) < vocabulary:
        return ""
    largest = [np.frombuffer(completion.token_ids, dtype="<u4").max(initial=0) for completion in completions]
    return f"completion {next(index for index, each in enumerate(largest) if each >= vocabulary)} holds a token id outside the vocabulary"
