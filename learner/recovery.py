"""What to do about steps without a finite loss or gradient. Pure.

    step applied ──▶ go on                     ┌──▶ fewer than `nonfinite_steps` in a row: go on with the next batch
    step skipped ──────────────────────────────┼──▶ that many: back to the last good checkpoint, their groups set aside
                                               └──▶ that many once more, after `nonfinite_rollbacks` rollbacks: stop

Step numbers never fall: the step after a rollback has the next number, on older weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from configs.training import LearnerSection


class Skipped(msgspec.Struct):
    """A step that changed nothing."""

    step: int
    groups: list[str]
    """Ids of its batch's instruction groups."""


class RecoveryState(msgspec.Struct):
    """For a checkpoint."""

    skipped: list[Skipped] = []
    """The steps in a row without a finite loss or gradient, up to the last one."""
    rollbacks: int = 0
    rolled_back_at: int = 0
    """Step of the last rollback: what earlier versions have sampled is stale."""
    good_below: int = 0
    """Checkpoints of earlier steps are good: a step with a finite loss followed on their weights, or they hold what a rollback put back."""
    went_back: dict[int, int] = {}
    """Step of each rollback, and the step of the checkpoint that it led to."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """Restore the newest checkpoint of a step before `good_below`, and set `groups` aside."""

    number: int
    """1 for the run's first one."""
    good_below: int
    steps: list[int]
    """Those that were skipped in a row."""
    groups: list[str]
    """Ids of their instruction groups, each once."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is beyond help."""

    reason: str


class Recovery:
    """Takes the outcome of every step, in order."""

    def __init__(self, section: LearnerSection, state: RecoveryState | None = None) -> None:
        """`state` is that of an earlier life of the run."""
        self._section = section
        self.state = state or RecoveryState()

    def applied(self, step: int) -> None:
        """`step` had a finite loss and gradient."""
        self.state = replace(self.state, skipped=[], good_below=step)

    def skipped(self, step: int, groups: Iterable[str]) -> Rollback | Stop | None:
        """`step` had none; `groups` are the ids of its batch. Returns what is to be done, None to go on."""
        before, section = self.state, self._section
        skipped = [*before.skipped, Skipped(step, list(groups))]
        self.state = replace(before, skipped=skipped)
        if len(skipped) < section.nonfinite_steps:
            return None
        steps = [each.step for each in skipped]
        if before.rollbacks >= section.nonfinite_rollbacks:
            return Stop(
                f"steps {', '.join(map(str, steps))} had no finite loss or gradient, after {before.rollbacks} rollbacks "
                f"(learner.nonfinite_rollbacks={section.nonfinite_rollbacks})"
            )
        self.state = RecoveryState([], before.rollbacks + 1, rolled_back_at=step, good_below=step + 1, went_back=before.went_back)
        groups = list(dict.fromkeys(group for each in skipped for group in each.groups))
        return Rollback(before.rollbacks + 1, before.good_below, steps, groups)

    def went_back(self, checkpoint: int) -> None:
        """The last rollback led to the checkpoint of that step."""
        self.state = replace(self.state, went_back={**self.state.went_back, self.state.rolled_back_at: checkpoint})

    def needed(self, kept: Collection[int]) -> set[int]:
        """Steps of checkpoints that a life which goes on from one of those `kept` would have to go back to again."""
        return {checkpoint for step, checkpoint in self.state.went_back.items() if any(each < step for each in kept)}
