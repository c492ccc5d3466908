"""Rank 0's walk through a run: publish, measure, train, publish, measure, save.

frontier ──offer──▶ link ══leases══▶ actors ══results══▶ link ──intake──▶ queue ──batch──▶ engine ──▶ publish, checkpoint
                      ▲                                                     │
                      └────────────── settle (acknowledge) ─────────────────┘
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import RunConfig
from learner.checkpoint import step_of
from learner.clock import Work, WorkClock
from learner.collate import by_length
from learner.copies import Copies
from learner.engine import Engine
from learner.events import SET_ASIDE
from learner.exchange import Exchange
from learner.gauges import Gauges, free_bytes
from learner.history import History
from learner.intake import Batch
from learner.journal.records import Received, RolledBack
from learner.keeper import Keeper
from learner.logbook import Logbook
from learner.publish import publish
from learner.ranks import End, Order, Publish, Ranks, Train, Wait
from learner.record import Record
from learner.recovery import Recovery, Rollback, Stop
from learner.rollback import last_good, order_for, restore, went_back_to
from learner.selection import Selection
from policies.adapter import Adapter
from protocol.errors import RbaError
from protocol.messages import InstructionGroup, PolicyVersion

Found = TypeVar("Found")

KEEP_ALIVE_S = 5.0
"""Between two `Wait` orders to the other ranks."""
ADVICE = (
    "look at them and at `grad_norm` in events.jsonl, then start a new run from the last good weights (model.path={}) "
    "with a lower learner.learning_rate or without the groups that are at fault"
)


class Session:
    """What rank 0 does. One thread runs it; `status` may be called from any."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path,
        weights_root: Path,
        *,
        engine: Engine,
        ranks: Ranks,
        family: Adapter,
        exchange: Exchange,
        gauges: Gauges,
        held_out: Sequence[InstructionGroup],
        validation: Sequence[InstructionGroup],
        history: History,
        logbook: Logbook,
        checkpoints_of: Path,
        stop: Callable[[], str],
    ) -> None:
        """`history` is how an earlier life of the run left off; `checkpoints_of` is the folder of the run that it was a life of."""
        life = history.life
        self._config, self._run_dir, self._weights_root = config, run_dir, weights_root
        self._engine, self._ranks, self._family, self._exchange = engine, ranks, family, exchange
        self._held_out, self._validation, self._stop = held_out, validation, stop
        self._selection = Selection(config.validation, life.selection)
        self._source = Path(config.model.path)
        self._names = family.checkpoint_names(self._source)
        self._clock = WorkClock()
        self._record = Record(run_dir, gauges, history, config.learner.steps)
        self._recovery = Recovery(config.learner, life.recovery)
        self._copies = Copies(config.learner.checkpoint_copies, run_dir, self._record.events, gauges, known=life.step)
        self._life, self._history, self._logbook, self._checkpoints_of = life, history, logbook, checkpoints_of
        self._keeper = Keeper(
            config, run_dir, life,
            engine=engine, family=family, exchange=exchange, logbook=logbook,
            record=self._record, selection=self._selection, recovery=self._recovery, copies=self._copies,
        )  # fmt: skip
        self._catching_up = False
        self._step = life.step
        self._published: PolicyVersion | None = None
        self._started_s = self._ordered_s = time.monotonic()
        self.state = "starting"
        self.closed = False
        """True once the actors have been told that the run has ended."""

    def run(self) -> dict[str, Any]:
        """Consumes: group results. Produces: policy versions, checkpoints, events. Waits for: enough results for a step.
        Unblocked by: rollout actors, or `stop`, which ends it after the current step with a checkpoint.
        """
        if not self._catch_up():
            return self._close()  # without a checkpoint: the next life catches up instead
        self._publish()
        if self._step == 0 and self._config.evaluation.before:
            self._evaluate("before", self._held_out)
        self._measure_and_keep()  # what an earlier life did not come to
        while self._step < self._config.learner.steps and not self._ended_early() and (batch := self._next_batch()) is not None:
            self._train(batch)
            self._measure_and_keep()
        self._evaluate("after", self._held_out)
        self._checkpoint()
        return self._close()

    # --- the stages, in the order of the walk ---------------------------------------------------------------

    def _measure_and_keep(self) -> None:
        """Whatever is due at this step and has not been done: a policy version, an evaluation, a validation, a checkpoint."""
        step, section, evaluation = self._step, self._config.learner, self._config.evaluation
        last = step == section.steps
        if last or step % section.publish_every == 0:
            self._publish()
        if step and not last and evaluation.every and step % evaluation.every == 0:
            self._evaluate(f"step {step}", self._held_out)
        if step and self._selection.due(step):
            self._validate()
        due = section.checkpoint_every and step % section.checkpoint_every == 0
        if step and not last and (due or self._logbook.wants_checkpoint):
            self._checkpoint()

    def _catch_up(self, trained: Callable[[int], object] = lambda _: None) -> bool:
        """Consumes: what the journal has behind the checkpoint. Produces: the weights and the queue as they were; False when it was
        stopped before. Waits for nothing.
        """
        self.state, self._catching_up = "catching up", True
        records = self._history.records
        while records and not self._stop():
            record = records.popleft()
            if isinstance(record, Received):
                self._exchange.retell(record)
                continue
            self._train(self._exchange.retake(record))
            trained(self._step)
        self._catching_up = False
        for step, figures in self._record.validations(self._life.step, self._step):
            self._selection.saw(step, figures)
        return not records

    def replay(self) -> dict[int, str]:
        """Take the journal's steps and nothing else. Returns the digest of the weights of each step, as they would be published."""
        digests: dict[int, str] = {}

        def keep(step: int) -> None:
            version, model, network = PolicyVersion(self._life.lineage, step), self._config.model, self._config.network
            manifest = publish(self._engine, self._weights_root, version, self._names, model.dtype, network.chunk_bytes)
            digests[step] = manifest.digest

        keep(self._step)
        self._catch_up(keep)
        return digests

    def _ended_early(self) -> str:
        """Why the run ends before its last step, or ""."""
        hours = self._config.learner.max_hours
        if hours is not None and time.monotonic() - self._started_s > 3600 * hours:
            return f"{hours:g} hours are over"
        return self._selection.reason if self._selection.exhausted else ""

    @property
    def _version(self) -> PolicyVersion:
        return PolicyVersion(self._life.lineage, self._step)

    def _publish(self) -> None:
        """Bring the current weights to the actors, unless they have them."""
        version = self._version
        if version == self._published:
            return
        started = time.monotonic()
        self._order(Publish(version))
        model, network = self._config.model, self._config.network
        with self._clock.at(Work.PUBLISH):
            manifest = publish(self._engine, self._weights_root, version, self._names, model.dtype, network.chunk_bytes)
        self._exchange.publish(version)
        self._published = version
        self._record.published(version, manifest, time.monotonic() - started)

    def _validate(self) -> None:
        """Measure the validation groups; a checkpoint that is better than all before it is kept as the best one."""
        figures = self._evaluate(f"validation {self._step}", self._validation)
        if figures is not None and self._selection.saw(self._step, figures):
            self._checkpoint(best=figures[self._config.validation.metric])
            self._copies.add_best()

    def _evaluate(self, label: str, groups: Sequence[InstructionGroup]) -> dict[str, float] | None:
        """Have held-out groups answered at the published version; training waits, or the version would move on. Returns the figures."""
        if not groups or self._stop() or (label != "after" and label in self._record.evaluations):
            return None
        started = time.monotonic()
        self.state = f"evaluating {label}"
        self._publish()
        evaluation = self._exchange.measure(label, self._version, groups)
        finished = self._wait(Work.EVALUATION, lambda: evaluation if evaluation.done else None)
        self._exchange.evaluation = None
        seconds = time.monotonic() - started
        self._record.progress.paused(seconds)
        return self._record.measured(finished, seconds) if finished is not None else None

    def _next_batch(self) -> Batch | None:
        """The groups of the next step; None when the run is to stop."""
        started = time.monotonic()
        self.state = "training"
        batch = self._wait(Work.PAIRS, lambda: self._exchange.take(self._step))
        if batch is None:
            self._exchange.give_up()
        self._record.waited(time.monotonic() - started)
        return batch

    def _wait(self, work: Work, ready: Callable[[], Found | None]) -> Found | None:
        """Consumes: results. Produces: the queue, acknowledgements, offers. Waits for: `ready`. Unblocked by: results, or a stop (None)."""
        self._exchange.receive(block=False)
        while not self._stop():
            found = ready()
            self._exchange.top_up(self._step)
            if found is not None:
                return found
            with self._clock.at(work):
                self._exchange.receive(block=True)
            self._record.waits(self._clock.seconds())
            self._keep_alive()
        return None

    def _train(self, batch: Batch) -> None:
        started = time.monotonic()
        number = self._step + 1
        order = Train(number, by_length(batch.items))
        self._order(order)
        with self._clock.at(Work.STEP):
            done = self._engine.step(self._ranks.share(order.batch), number)
        self._step = number
        self._exchange.settle(number, applied=done.applied)
        self._record.stepped(number, batch, done, started, time.monotonic(), self._exchange.intake.queued)
        self._exchange.account()
        if done.applied:
            self._recovery.applied(number)
        else:
            self._recover(batch)

    def _recover(self, batch: Batch) -> None:
        """The step had no finite loss or gradient: after some in a row go back to good weights, and go on without these groups."""
        self._record.skipped(self._step, batch.items)
        match action := self._recovery.skipped(self._step, [item.group.group_id for item in batch.items]):
            case Stop():
                good = last_good(self._run_dir, self._recovery.state.good_below, self._life.step) or self._source
                raise RbaError(f"{action.reason}; their batches are in {self._run_dir / SET_ASIDE}: {ADVICE.format(good)}")
            case Rollback():
                self._roll_back(action)

    def _roll_back(self, rollback: Rollback) -> None:
        started = time.monotonic()
        self._exchange.set_aside(rollback.groups, self._step)
        checkpoint = self._good_checkpoint(rollback)
        order = order_for(checkpoint)
        self._order(order)
        restore(self._engine, self._ranks, order, checkpoint)
        self._record.rolled_back(self._step, rollback, checkpoint, time.monotonic() - started)
        if self._catching_up:
            return  # the history that is still to be told would not be part of either
        self._publish()  # at once: until then actors sample with weights that are given up
        self._checkpoint()  # a later life begins here too, and knows what was set aside

    def _good_checkpoint(self, rollback: Rollback) -> Path | None:
        """Where the weights go back to. It is noted, for the steps behind it only give the same weights again from the same ones."""
        checkpoint, known = went_back_to(self._checkpoints_of, self._history.rollbacks.get(self._step))
        if not known:
            checkpoint = last_good(self._checkpoints_of, rollback.good_below, self._life.step)
            self._logbook.note(RolledBack(self._step, step_of(checkpoint) if checkpoint is not None else None))
            self._logbook.commit()  # before anybody hears of these weights
        if checkpoint is not None:
            self._recovery.went_back(step_of(checkpoint))
        return checkpoint

    def _checkpoint(self, best: float | None = None) -> None:
        """Keep the current weights; `best` is the figure that makes them the best ones."""
        last = bool(self._stop()) or self._step >= self._config.learner.steps
        with self._clock.at(Work.CHECKPOINT):
            self._keeper.keep(self._step, self._order, last=last, best=best)

    def _close(self) -> dict[str, Any]:
        reason = self._stop()
        early = self._ended_early() if not reason and self._step < self._config.learner.steps else ""
        if early:
            self._record.ended_early(self._step, early)
        self.state = "copying"
        self._copies.close(lambda: self._keep_alive() and self._stop() == reason)  # before the actors leave: without one a run is lost
        self._keeper.tidy()
        self.state = "stopped" if reason else "completed"
        self._order(End(reason or "completed"))
        self._exchange.close(reason or "completed")
        self.closed = True
        closing = self._closing() | {"early_stop": early or None}
        self._record.ended(closing)
        return closing

    def _keep_alive(self) -> bool:
        if time.monotonic() - self._ordered_s > KEEP_ALIVE_S:
            self._order(Wait())
        return True

    def _order(self, order: Order) -> None:
        self._ranks.order(order)
        self._ordered_s = time.monotonic()

    # --- figures --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Where the run is. May be called from any thread."""
        ledger, actors = self._exchange.accounts()
        evaluation, checkpoint = self._exchange.evaluation, self._record.checkpoint
        return {
            "state": self.state,
            "step": self._step,
            "steps": self._config.learner.steps,
            "policy_version": str(self._published) if self._published is not None else None,
            "ledger": ledger,
            "pairs": {"trained": self._exchange.intake.counts.pairs_trained},
            "actors": actors,
            "policy_lag": self._record.progress.policy_lag(),
            "idle": self._record.progress.idle,
            "idle_s": self._record.progress.idle_s,
            "work_seconds": {work.value: round(seconds, 3) for work, seconds in self._clock.seconds().items()},
            "quiet_s": round(time.monotonic() - self._ordered_s, 3),
            "nonfinite_steps": self._record.progress.nonfinite,
            "rollbacks": self._recovery.state.rollbacks,
            "last": dict(self._record.last),
            "evaluation": {"label": evaluation.label, "waiting": evaluation.waiting} if evaluation is not None else None,
            "evaluations": dict(self._record.evaluations),
            "copies": self._copies.status(),
            "journal": self._logbook.status(),
            "checkpoint": {"step": checkpoint[0], "age_s": time.monotonic() - checkpoint[1]} if checkpoint is not None else None,
            "disk_free_bytes": None if math.isnan(free := free_bytes(self._run_dir)) else free,
        }

    def _closing(self) -> dict[str, Any]:
        """What the run leaves for its summary."""
        counts = self._exchange.intake.counts
        return {
            "status": self.state,
            "strategy": self._config.strategy,
            "zero_stage": self._config.learner.zero_stage,
            "policy_version": {"lineage": self._life.lineage, "step": self._step},
            **self._record.progress.closing(),
            "rollbacks": self._recovery.state.rollbacks,
            "ledger": self._exchange.account(),
            "pairs": {"unique": counts.pairs_unique, "trained": counts.pairs_trained, "dropped": dict(counts.pairs_dropped)},
            "epochs": round(self._exchange.frontier.epochs, 3),
            "evaluation": self._record.evaluations,
            "best": {"step": self._selection.state.step, self._config.validation.metric: self._selection.state.value},
            "copies": self._copies.status(),
        }
