"""Which checkpoint is the best one, when to stop, and which ones to keep. Pure.

The paper selects its checkpoint and stops early by validation sets of 128 items a topic (section 4.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from configs.training import ValidationSection
from protocol.messages import InstructionGroup


class SelectionState(msgspec.Struct):
    """For a checkpoint."""

    step: int | None = None
    """Of the best validation so far."""
    value: float | None = None
    waited: int = 0
    """Validations since then."""


class Selection:
    """Takes validations in order and remembers the best; of equal ones the first."""

    def __init__(self, section: ValidationSection, state: SelectionState | None = None) -> None:
        self._section = section
        self.state = state or SelectionState()

    def due(self, step: int) -> bool:
        """True when `step` is to be validated."""
        return bool(self._section.every) and step % self._section.every == 0

    def saw(self, step: int, figures: dict[str, float]) -> bool:
        """Take the figures of `step`; True when they are the best so far. Figures without the metric are none."""
        value = figures.get(self._section.metric)
        if value is None:
            return False
        if self.state.value is None or value > self.state.value:
            self.state = SelectionState(step, value)
            return True
        self.state = SelectionState(self.state.step, self.state.value, self.state.waited + 1)
        return False

    @property
    def exhausted(self) -> bool:
        """True when the run is to stop: too many validations without a better one."""
        return 0 < self._section.patience <= self.state.waited

    @property
    def reason(self) -> str:
        """Why it stops, for people."""
        best = f"step {self.state.step} has the best {self._section.metric}, {self.state.value:.4g}" if self.state.value is not None else ""
        return f"{self.state.waited} validations in a row were not better: {best}"


def by_topic(groups: Iterable[InstructionGroup], most: int) -> list[InstructionGroup]:
    """The first `most` groups of each topic, in their order."""
    seen: Counter[str] = Counter()
    chosen = []
    for group in groups:
        seen[group.topic] += 1
        if seen[group.topic] <= most:
            chosen.append(group)
    return chosen


def superfluous(steps: Sequence[int], last: int, every: int, best: int | None, good_below: int) -> list[int]:
    """Checkpoints that may go: all but the newest `last` (0: all stay), each multiple of `every` (0: none), the `best` one and the
    newest one before step `good_below`, which a rollback would need.
    """
    if not last:
        return []
    good = max((step for step in steps if step < good_below), default=None)
    kept = {*sorted(steps)[-last:], best, good}
    return [step for step in sorted(steps) if step not in kept and not (every and step % every == 0)]
