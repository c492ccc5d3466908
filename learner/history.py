"""What the journal adds to a checkpoint: how a life of the run stood when it ended. Pure.

    checkpoint of step N ──▶ Life ──┐
                                    ├──fold──▶ Life as it stood at the end, and what happened since N, in order
    journal behind the checkpoint ──┘

Batches that were taken behind the checkpoint are trained again, in the same order; results that wait for a step wait again; only what
has no result is leased again, and its result is welcome from whoever was leased it before. So parameters are a function of a checkpoint
and of the journal's order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from learner.frontier import EPOCHS_A_LIFE
from learner.journal.records import Began, HeldOut, Leased, Received, Record, RolledBack, Taken
from learner.life import Life
from protocol.messages import Purpose


@dataclass(frozen=True, slots=True)
class History:
    """The end of an earlier life."""

    life: Life
    """Its frontier, lease epoch and ancestry; its counts are still those of the checkpoint."""
    records: deque[Received | Taken] = field(default_factory=deque)
    """What the intake is to be told again."""
    steps: int = 0
    """Steps that are taken again."""
    leased_again: int = 0
    """Groups without a result, of ordinals up to the last one that is known to have been leased."""
    sequences: dict[int, int] = field(default_factory=dict)
    """Ordinal → place in the journal of the results among them."""
    rollbacks: dict[int, RolledBack] = field(default_factory=dict)
    """Where the weights went back to, by the step after which they did."""

    @property
    def results(self) -> int:
        """Results that need not be asked for again."""
        return len(self.sequences)


def fold(life: Life, records: Iterable[tuple[int, Record]]) -> History:
    """`life` begins at a checkpoint; `records` are the journal's by sequence, from `life.journal_needs` on."""
    waiting = set(life.frontier.untrained)
    """Of the checkpoint's ordinals, those without an outcome that counts."""
    told: list[Received | Taken] = []
    sequences: dict[int, int] = {}
    rollbacks: dict[int, RolledBack] = {}
    ordinal, held_out, reserved = life.frontier.ordinal, list(life.frontier.held_out), life.frontier.reserved
    epoch, ancestry, step = life.frontier.lease_epoch, dict(life.ancestry), life.step
    for sequence, record in records:
        match record:
            case Received(result=result) if result.purpose is Purpose.TRAIN and result.ordinal not in sequences:
                if sequence > life.journal_at or result.ordinal in waiting:
                    told.append(record)
                    sequences[result.ordinal] = sequence
                    ordinal = max(ordinal, result.ordinal + 1)
            case Taken() if record.step == step + 1:
                told.append(record)
                step += 1
            case RolledBack() if record.step > life.step:
                rollbacks[record.step] = record
            case HeldOut() if record.first >= life.frontier.ordinal:
                held_out.append((record.first, record.count))
                ordinal = max(ordinal, record.first + record.count)
            case Leased():
                reserved = max(reserved, record.below)
            case Began():
                epoch = max(epoch, record.lease_epoch + EPOCHS_A_LIFE)
                ancestry[record.lineage] = life.step
    ancestry = {lineage: step if reached == life.step else reached for lineage, reached in ancestry.items()}
    measured = {each for first, count in held_out for each in range(max(first, life.frontier.ordinal), first + count)}
    known, ordinal = ordinal, max(ordinal, reserved)
    untrained = sorted(({*waiting, *range(life.frontier.ordinal, ordinal)} - measured) - sequences.keys())
    frontier = msgspec.structs.replace(
        life.frontier, ordinal=ordinal, held_out=held_out, untrained=untrained, lease_epoch=epoch, reserved=ordinal
    )
    again = sum(each < known for each in untrained)
    life = msgspec.structs.replace(life, frontier=frontier, ancestry=ancestry)
    return History(life, deque(told), step - life.step, again, sequences, rollbacks)
