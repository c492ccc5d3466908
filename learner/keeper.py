"""The run's checkpoints: written, marked as the best, copied, and the superfluous ones removed. Edge: torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from configs.schema import RunConfig
from learner import training_state
from learner.checkpoint import STATE, mark_best, remove_superfluous, steps_of, write_checkpoint
from learner.copies import Copies
from learner.engine import Engine
from learner.exchange import Exchange
from learner.life import Life, lives
from learner.logbook import Logbook
from learner.ranks import Order, Save
from learner.record import Record
from learner.recovery import Recovery
from learner.selection import Selection
from policies.adapter import Adapter
from protocol.errors import RbaError


class Keeper:
    """Keeps what a later life of the run begins with. Belongs to the thread of the session."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        life: Life,
        *,
        engine: Engine,
        family: Adapter,
        exchange: Exchange,
        logbook: Logbook,
        record: Record,
        selection: Selection,
        recovery: Recovery,
        copies: Copies,
    ) -> None:
        self._config, self._run_dir, self._life = config, run_dir, life
        self._engine, self._family, self._exchange, self._logbook = engine, family, exchange, logbook
        self._record, self._selection, self._recovery, self._copies = record, selection, recovery, copies
        self._saved = life.step if life.lineage else -1

    def keep(self, step: int, order: Callable[[Order], None], *, last: bool, best: float | None = None) -> None:
        """Write the weights of `step`, unless they are written; `best` is the figure that makes them the best ones.

        `order` tells the other ranks to take part. A checkpoint that the disk refuses is made good by a later one; where none comes
        (`last`), that raises `RbaError`.
        """
        if self._saved == step:
            if best is None:
                return
        elif not self._write(step, order, last=last):
            return
        if best is not None:
            mark_best(self._run_dir, step, self._config.validation.metric, best)
        self.tidy()
        needs = {each: life.journal_needs for each, life in lives(self._run_dir).items()}
        self._logbook.checkpointed(step, needs, complete=step >= self._config.learner.steps)

    def tidy(self) -> None:
        """Remove the checkpoints that nothing needs any more."""
        section, best, good_below = self._config.learner, self._selection.state.step, self._recovery.state.good_below

        def held(doomed: list[int]) -> set[int]:
            kept = set(steps_of(self._run_dir)) - set(doomed)
            return {*self._copies.held(doomed), self._saved, *self._recovery.needed(kept)}

        remove_superfluous(self._run_dir, section.keep_checkpoints, section.keep_every, best, good_below, held)

    def _write(self, step: int, order: Callable[[Order], None], *, last: bool) -> bool:
        """False when the disk refused."""
        started = time.monotonic()
        self._logbook.begin_checkpoint()
        order(Save(step))
        model = self._config.model
        tensors, moments = self._engine.tensors(model.dtype), self._engine.training_state.gathered()

        def state(checkpoint: Path) -> None:
            training_state.write(checkpoint / STATE, moments)
            self._life_from(step).write(checkpoint)

        try:
            path = write_checkpoint(self._run_dir, step, tensors, self._family, Path(model.path), model.dtype, state)
        except OSError as error:
            deque(tensors, maxlen=0)  # the other ranks take part to the end
            deque(moments, maxlen=0)
            self._record.not_saved(step, str(error))
            if last:
                raise RbaError(f"the last checkpoint cannot be written: {error}; make room, then go on with --resume") from error
            return False
        self._saved = step
        self._record.saved(step, path, time.monotonic() - started)
        self._copies.add(step)
        return True

    def _life_from(self, step: int) -> Life:
        """What the run's next life needs, beside tensors."""
        return Life(
            step=step,
            lineage=self._life.lineage,
            updates=self._engine.training_state.updates,
            recovery=self._recovery.state,
            ancestry=self._life.ancestry,
            progress=self._record.progress.state(),
            evaluations=self._record.evaluations,
            selection=self._selection.state,
            **self._exchange.left(),
        )
