"""Back to good weights while the learner runs. Edge: torch, deepspeed."""

from __future__ import annotations

from pathlib import Path

from learner.checkpoint import CHECKPOINTS, STATE, newest, verify
from learner.engine import Engine
from learner.journal.records import RolledBack
from learner.life import Life
from learner.ranks import Ranks, Restore
from learner.training_state import SavedTensors


def last_good(run_dir: Path, good_below: int, began: int) -> Path | None:
    """The newest whole checkpoint of a step before `good_below`; else the one of step `began`, with which this life of the run began.

    None where the run has neither: then it goes back to the start.
    """
    return newest(run_dir, good_below)[0] or newest(run_dir, began + 1)[0]


def went_back_to(run_dir: Path, known: RolledBack | None) -> tuple[Path | None, bool]:
    """The checkpoint that an earlier life went back to (None is the start), and whether that can be done again."""
    if known is None:
        return None, False
    if known.to is None:
        return None, True
    path = run_dir / CHECKPOINTS / f"step-{known.to}"
    return path, not verify(path)


def order_for(checkpoint: Path | None) -> Restore:
    """What rank 0 tells the other ranks in order to go back to `checkpoint`; None is the start."""
    if checkpoint is None:
        return Restore(from_start=True, updates=0)
    return Restore(from_start=False, updates=Life.read(checkpoint, lineage=0).updates)


def restore(engine: Engine, ranks: Ranks, order: Restore, checkpoint: Path | None = None) -> None:
    """Carry the order out, on every rank at once; rank 0 alone has to know the checkpoint."""
    saved = None if order.from_start else SavedTensors(checkpoint / STATE if checkpoint is not None else None, ranks)
    engine.restore(saved, order.updates)
