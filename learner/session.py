"""Rank 0's walk through a run: publish, measure, train, publish, measure, save.

frontier ──offer──▶ link ══leases══▶ actors ══results══▶ link ──intake──▶ queue ──batch──▶ engine ──▶ publish, checkpoint
                      ▲                                                     │
                      └────────────── settle (acknowledge) ─────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import RunConfig
from learner import training_state
from learner.checkpoint import STATE, mark_best, remove_superfluous, write_checkpoint
from learner.collate import by_length
from learner.engine import Engine
from learner.evaluation import Evaluation
from learner.events import Events, samples_due
from learner.exchange import Exchange
from learner.figures import StepFigures, step_event
from learner.gauges import Gauges
from learner.intake import Batch
from learner.life import Life, account
from learner.progress import Progress
from learner.publish import publish
from learner.ranks import End, Order, Publish, Ranks, Save, Train, Wait
from learner.selection import Selection
from policies.adapter import Adapter
from protocol.errors import RbaError
from protocol.messages import InstructionGroup, PolicyVersion

Found = TypeVar("Found")

KEEP_ALIVE_S = 5.0
"""Between two `Wait` orders to the other ranks."""
MAX_SKIPPED_STEPS = 10
"""Steps in a row without a finite loss, after which the run is beyond help."""


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
        life: Life,
        stop: Callable[[], str],
    ) -> None:
        self._config, self._run_dir, self._weights_root = config, run_dir, weights_root
        self._engine, self._ranks, self._family, self._exchange, self._gauges = engine, ranks, family, exchange, gauges
        self._held_out, self._validation, self._stop = held_out, validation, stop
        self._selection = Selection(config.validation, life.selection)
        self._source = Path(config.model.path)
        self._names = family.checkpoint_names(self._source)
        self._events = Events(run_dir)
        self._progress = Progress(life.progress)
        self._life = life
        self._step = life.step
        self._published: PolicyVersion | None = None
        self._evaluations: dict[str, dict[str, Any]] = dict(life.evaluations)
        self._last: dict[str, Any] = {}
        self._saved = life.step if life.lineage else -1
        self._skipped = life.skipped
        self._started_s = self._ordered_s = time.monotonic()
        self.state = "starting"
        self.closed = False
        """True once the actors have been told that the run has ended."""

    def run(self) -> dict[str, Any]:
        """Consumes: group results. Produces: policy versions, checkpoints, events. Waits for: enough results for a step.
        Unblocked by: rollout actors, or `stop`, which ends it after the current step with a checkpoint.
        """
        section, evaluation = self._config.learner, self._config.evaluation
        self._begin()
        self._publish()
        if evaluation.before and "before" not in self._evaluations:
            self._evaluate("before", self._held_out)
        while self._step < section.steps and not self._ended_early() and (batch := self._next_batch()) is not None:
            self._train(batch)
            last = self._step == section.steps
            if last or self._step % section.publish_every == 0:
                self._publish()
            if not last and evaluation.every and self._step % evaluation.every == 0:
                self._evaluate(f"step {self._step}", self._held_out)
            if self._selection.due(self._step):
                self._validate()
            if not last and section.checkpoint_every and self._step % section.checkpoint_every == 0:
                self._checkpoint()
        self._evaluate("after", self._held_out)
        self._checkpoint()
        return self._close()

    # --- the stages, in the order of the walk ---------------------------------------------------------------

    def _ended_early(self) -> str:
        """Why the run ends before its last step, or ""."""
        hours = self._config.learner.max_hours
        if hours is not None and time.monotonic() - self._started_s > 3600 * hours:
            return f"{hours:g} hours are over"
        return self._selection.reason if self._selection.exhausted else ""

    def _begin(self) -> None:
        if self._life.lineage:
            self._events.write("resume", step=self._step, lineage=self._life.lineage, leased_again=len(self._life.frontier.untrained))

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
        manifest = publish(self._engine, self._weights_root, version, self._names, model.dtype, network.chunk_bytes)
        self._exchange.publish(version)
        self._published = version
        seconds = time.monotonic() - started
        self._progress.pushed(seconds)
        self._gauges.pushed(version, seconds)
        self._events.write("publish", policy_version=str(version), seconds=seconds, size_bytes=manifest.size_bytes, digest=manifest.digest)

    def _validate(self) -> None:
        """Measure the validation groups; a checkpoint that is better than all before it is kept as the best one."""
        figures = self._evaluate(f"validation {self._step}", self._validation)
        if figures is not None and self._selection.saw(self._step, figures):
            self._checkpoint()
            mark_best(self._run_dir, self._step, self._config.validation.metric, figures[self._config.validation.metric])

    def _evaluate(self, label: str, groups: Sequence[InstructionGroup]) -> dict[str, float] | None:
        """Have held-out groups answered at the published version; training waits, or the version would move on. Returns the figures."""
        if not groups or self._stop():
            return None
        started = time.monotonic()
        self.state = f"evaluating {label}"
        self._publish()
        evaluation = self._exchange.measure(label, self._version, groups)
        finished = self._wait(lambda: evaluation if evaluation.done else None)
        self._exchange.evaluation = None
        seconds = time.monotonic() - started
        self._progress.paused(seconds)
        return self._measured(finished, seconds) if finished is not None else None

    def _measured(self, evaluation: Evaluation, seconds: float) -> dict[str, float]:
        figures = evaluation.figures()
        self._events.evaluation(evaluation.label, evaluation.rows)
        self._evaluations[evaluation.label] = {**figures, "unmeasured": float(evaluation.unmeasured)}
        self._gauges.evaluated(figures)
        self._events.write(
            "evaluation",
            label=evaluation.label,
            policy_version=str(evaluation.version),
            seconds=seconds,
            figures=self._evaluations[evaluation.label],
            topics=evaluation.topics(),
        )
        return figures

    def _next_batch(self) -> Batch | None:
        """The groups of the next step; None when the run is to stop."""
        started = time.monotonic()
        self.state = "training"
        batch = self._wait(lambda: self._exchange.intake.take(self._config.learner.batch_groups, self._step))
        waited = time.monotonic() - started
        self._progress.waited(waited)
        self._gauges.idle("pairs", waited)
        self._last["idle_s"] = waited
        return batch

    def _wait(self, ready: Callable[[], Found | None]) -> Found | None:
        """Consumes: results. Produces: the queue, acknowledgements, offers. Waits for: `ready`. Unblocked by: results, or a stop (None)."""
        self._exchange.receive(block=False)
        while not self._stop():
            found = ready()
            self._exchange.top_up(self._step)
            if found is not None:
                return found
            self._exchange.receive(block=True)
            if time.monotonic() - self._ordered_s > KEEP_ALIVE_S:
                self._order(Wait())
        return None

    def _train(self, batch: Batch) -> None:
        started = time.monotonic()
        number = self._step + 1
        order = Train(number, by_length(batch.items))
        self._order(order)
        done = self._engine.step(self._ranks.share(order.batch), number)
        self._step = number
        if done.applied:
            self._exchange.intake.trained()
            self._skipped = 0
        else:
            self._exchange.intake.skipped()
            self._progress.nonfinite += 1
            self._skipped += 1
        ended = time.monotonic()
        self._progress.stepped(started, ended, batch.lags)
        self._report(batch, done, ended - started)
        if self._skipped >= MAX_SKIPPED_STEPS:
            raise RbaError(f"{self._skipped} steps in a row had no finite loss or gradient; the learning rate is likely too high")

    def _report(self, batch: Batch, done: StepFigures, seconds: float) -> None:
        figures = {**step_event(batch, done, seconds), "idle_s": self._last.get("idle_s", 0.0)}
        self._last = {"step": self._step, **figures}
        self._gauges.stepped(done, batch, figures)
        self._exchange.account()
        self._events.write("step", **self._last, queued=self._exchange.intake.queued)
        if samples_due(self._step, self._config.learner.steps):
            self._events.samples(self._step, batch.items)

    def _checkpoint(self) -> None:
        """Write the current weights, unless they are written."""
        if self._saved == self._step:
            return
        started = time.monotonic()
        self._order(Save(self._step))
        dtype = self._config.model.dtype
        path = write_checkpoint(
            self._run_dir, self._step, self._engine.tensors(dtype), self._family, self._source, dtype, self._write_state
        )
        self._saved = self._step
        seconds = time.monotonic() - started
        self._gauges.saved(seconds)
        self._events.write("checkpoint", step=self._step, path=str(path.relative_to(self._run_dir)), seconds=seconds)
        section = self._config.learner
        remove_superfluous(self._run_dir, section.keep_checkpoints, section.keep_every, self._selection.state.step)

    def _write_state(self, checkpoint: Path) -> None:
        """What the run's next life needs, beside the released layout."""
        training_state.write(checkpoint / STATE, self._engine.training_state.gathered())
        exchange = self._exchange
        life = Life(
            step=self._step,
            lineage=self._life.lineage,
            updates=self._engine.training_state.updates,
            skipped=self._skipped,
            frontier=exchange.frontier.state(exchange.intake.queued_ordinals),
            progress=self._progress.state(),
            evaluations=self._evaluations,
            selection=self._selection.state,
            **account(exchange.accounts()[0], exchange.intake.counts),
        )
        life.write(checkpoint)

    def _close(self) -> dict[str, Any]:
        reason = self._stop()
        early = self._ended_early() if not reason and self._step < self._config.learner.steps else ""
        if early:
            self._events.write("early_stop", step=self._step, reason=early)
        self.state = "stopped" if reason else "completed"
        self._order(End(reason or "completed"))
        self._exchange.close(reason or "completed")
        self.closed = True
        closing = self._closing() | {"early_stop": early or None}
        self._events.write("end", **closing)
        self._events.close()
        return closing

    def _order(self, order: Order) -> None:
        self._ranks.order(order)
        self._ordered_s = time.monotonic()

    # --- figures --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Where the run is. May be called from any thread."""
        ledger, actors = self._exchange.accounts()
        evaluation = self._exchange.evaluation
        return {
            "state": self.state,
            "step": self._step,
            "steps": self._config.learner.steps,
            "policy_version": str(self._published) if self._published is not None else None,
            "ledger": ledger,
            "pairs": {"trained": self._exchange.intake.counts.pairs_trained},
            "actors": actors,
            "policy_lag": self._progress.policy_lag(),
            "idle": self._progress.idle,
            "idle_s": self._progress.idle_s,
            "quiet_s": round(time.monotonic() - self._ordered_s, 3),
            "last": dict(self._last),
            "evaluation": {"label": evaluation.label, "waiting": evaluation.waiting} if evaluation is not None else None,
            "evaluations": dict(self._evaluations),
        }

    def _closing(self) -> dict[str, Any]:
        """What the run leaves for its summary."""
        counts = self._exchange.intake.counts
        return {
            "status": self.state,
            "strategy": self._config.strategy,
            "zero_stage": self._config.learner.zero_stage,
            "policy_version": {"lineage": self._life.lineage, "step": self._step},
            **self._progress.closing(),
            "ledger": self._exchange.account(),
            "pairs": {"unique": counts.pairs_unique, "trained": counts.pairs_trained, "dropped": dict(counts.pairs_dropped)},
            "epochs": round(self._exchange.frontier.epochs, 3),
            "evaluation": self._evaluations,
            "best": {"step": self._selection.state.step, self._config.validation.metric: self._selection.state.value},
        }
