"""What one life of a run leaves to the next: everything but tensors, kept in each checkpoint as JSON. Pure.

A run has as many lives as it was started. Each has a lineage of its own in its policy versions.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from learner.checkpoint import CHECKPOINTS, LEARNER, STATE, steps_of
from learner.frontier import FrontierState
from learner.intake import Counts
from learner.progress import ProgressState
from learner.recovery import RecoveryState
from learner.selection import SelectionState
from protocol.dialogue.sequences import SequenceSet
from protocol.errors import UserError
from protocol.ledger import Ledger
from protocol.messages import PolicyVersion


class Life(msgspec.Struct):
    """Where a life stands when a checkpoint is written, and where the next one begins."""

    step: int = 0
    lineage: int = 0
    updates: int = 0
    """Updates of the optimiser: steps, but for those that were skipped."""
    recovery: RecoveryState = msgspec.field(default_factory=RecoveryState)
    ancestry: dict[int, int] = {}
    """Earlier lineages, and the last step of each whose weights the current ones come from."""
    journal_at: int = 0
    """The last sequence of the journal that was durable when the checkpoint was written."""
    journal_needs: int = 0
    """The first one that is needed to go on from it."""
    frontier: FrontierState = msgspec.field(default_factory=FrontierState)
    progress: ProgressState = msgspec.field(default_factory=ProgressState)
    evaluations: dict[str, dict[str, float]] = {}
    selection: SelectionState = msgspec.field(default_factory=SelectionState)
    trained: int = 0
    dropped: dict[str, int] = {}
    pairs_trained: int = 0
    pairs_dropped: dict[str, int] = {}
    duplicate: int = 0
    rejected: dict[str, int] = {}
    expired: int = 0

    @property
    def version(self) -> PolicyVersion:
        """The policy version that this life begins with."""
        return PolicyVersion(self.lineage, self.step)

    def counts(self) -> Counts:
        """The intake's counts; what was queued is leased again and counts anew."""
        unique = self.trained + sum(self.dropped.values())
        pairs = self.pairs_trained + sum(self.pairs_dropped.values())
        return Counts(unique, self.trained, Counter(self.dropped), pairs, self.pairs_trained, Counter(self.pairs_dropped))

    def ledger(self, results: int = 0) -> Ledger:
        """The ledger; what was queued is leased again, but for `results` that the journal has."""
        unique = self.trained + sum(self.dropped.values()) + results
        rejected = Counter(self.rejected)
        received = unique + self.duplicate + rejected.total()
        return Ledger(
            leased=unique + self.expired, settled=unique, expired=self.expired,
            received=received, unique=unique, duplicate=self.duplicate, rejected=rejected,
            trained=self.trained, dropped=Counter(self.dropped),
        )  # fmt: skip

    def settled(self) -> SequenceSet:
        """Ordinals that have their outcome."""
        untrained = set(self.frontier.untrained)
        first = min(untrained, default=self.frontier.ordinal)
        settled = SequenceSet(first)
        for ordinal in range(first, self.frontier.ordinal):
            if ordinal not in untrained:
                settled.add(ordinal)
        return settled

    def write(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint."""
        (checkpoint / STATE).mkdir(exist_ok=True)
        (checkpoint / STATE / LEARNER).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    def next(self, lineage: int) -> Life:
        """The life of `lineage` that begins where this one left off."""
        return msgspec.structs.replace(self, lineage=lineage, ancestry={**self.ancestry, self.lineage: self.step})

    @classmethod
    def read(cls, checkpoint: Path, lineage: int) -> Life:
        """The life of `lineage` that begins at a checkpoint. Raises `UserError` for one that cannot be continued."""
        path = checkpoint / STATE / LEARNER
        try:
            left = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
            fix = "use a checkpoint that this version of rba has written"
            raise UserError(f"the checkpoint cannot be continued: {error}", where=str(path), fix=fix) from None
        return left.next(lineage)


def lives(run_dir: Path) -> dict[int, Life]:
    """Those that the run's checkpoints keep, by step."""
    states = {step: run_dir / CHECKPOINTS / f"step-{step}" / STATE / LEARNER for step in steps_of(run_dir)}
    found = {}
    for step, path in states.items():
        with suppress(OSError, msgspec.DecodeError):  # nobody goes on from a damaged one
            found[step] = msgspec.json.decode(path.read_bytes(), type=Life)
    return found


def account(ledger: dict[str, Any], counts: Counts) -> dict[str, Any]:
    """The fields of a `Life` that come from the ledger (`Ledger.as_dict`) and the intake's counts."""
    return {
        "trained": counts.trained,
        "dropped": dict(counts.dropped),
        "pairs_trained": counts.pairs_trained,
        "pairs_dropped": dict(counts.pairs_dropped),
        "duplicate": ledger["duplicate"],
        "rejected": dict(ledger["rejected_reasons"]),
        "expired": ledger["expired"],
    }
