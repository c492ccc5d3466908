"""The learner's metrics, named once."""

from __future__ import annotations

import functools
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.clock import WAITING, Work
from learner.figures import PHASES, StepFigures
from learner.intake import Batch, Counts, Drop
from learner.journal.journal import JournalCounts
from protocol.codec import REFUSALS
from protocol.ledger import REJECTED, Ledger
from protocol.messages import GroupResult, Outcome, PolicyVersion
from protocol.metrics import Metrics

SUITE = "held_out"
LOSS_TERMS = ("total", "preference", "cross_entropy")


def free_bytes(folder: Path) -> float:
    """Free space on the folder's disk, for who is not its administrator; NaN where nobody can say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.nan


class Gauges:
    """Sets and counts what `protocol.catalogue.CATALOGUE` promises of a learner."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted: Counter[tuple[str, str]] = Counter()
        self._waited_s: dict[Work, float] = dict.fromkeys(WAITING, 0.0)
        metrics.declare("rba_group_outcomes_total", outcome=Outcome)
        for what in ("results", "pairs"):
            metrics.declare(f"rba_{what}_rejected_total", reason=REJECTED)
            metrics.declare(f"rba_{what}_dropped_total", reason=Drop)
        metrics.declare("rba_messages_refused_total", reason=REFUSALS)
        metrics.declare("rba_learner_idle_seconds_total", reason=WAITING)
        metrics.declare("rba_learner_step_seconds", phase=PHASES)
        metrics.declare("rba_checkpoint_copies_total", outcome=("copied", "failed"))
        metrics.declare("rba_weight_push_seconds", stage=("gather",))

    def watch_disk(self, folder: Path) -> None:
        """Export the free space of the folder's disk, looked at whenever it is asked for."""
        self._metrics.ask("rba_disk_free_bytes", functools.partial(free_bytes, folder))

    def waited(self, seconds: Mapping[Work, float]) -> None:
        """What the learner waited so far, by reason; counted while it waits, so that a wait without end is seen too."""
        for reason in WAITING:
            self._metrics.inc("rba_learner_idle_seconds_total", max(0.0, seconds[reason] - self._waited_s[reason]), reason=reason)
            self._waited_s[reason] = seconds[reason]

    def acknowledged(self) -> None:
        """Results are safe, and their sender is told."""
        self._metrics.succeeded("rba_results_last_success_timestamp_seconds")

    def outcome(self, result: GroupResult) -> None:
        """A unique result arrived."""
        self._metrics.inc("rba_group_outcomes_total", outcome=result.outcome.value)

    def stepped(self, done: StepFigures, batch: Batch, figures: dict[str, Any]) -> None:
        """A step ran; `figures` are those of its event."""
        self._metrics.inc("rba_learner_steps_total")
        self._metrics.succeeded("rba_learner_last_step_timestamp_seconds")
        for phase, seconds in done.seconds.items():
            self._metrics.observe("rba_learner_step_seconds", seconds, phase=phase)
        for lag in batch.lags:
            self._metrics.observe("rba_policy_lag_versions", lag)
        if not done.applied:
            self._metrics.inc("rba_nonfinite_steps_total")
        for term in LOSS_TERMS:
            self._set("rba_loss", figures["loss"][term], term=term)
        self._set("rba_preference_margin", figures["margin"])
        self._set("rba_preference_accuracy", figures["preference_accuracy"])
        self._set("rba_sampler_logprob_gap", figures["sampler_logprob_gap"])
        self._set("rba_completions_off_ratio", figures["completions_off"])
        self._set("rba_grad_norm", done.grad_norm)
        self._set("rba_learning_rate", done.learning_rate)

    def rolled_back(self) -> None:
        """Weights and moments went back to the last good checkpoint."""
        self._metrics.inc("rba_rollbacks_total")

    def pushed(self, version: PolicyVersion, seconds: float) -> None:
        """A policy version was published."""
        self._metrics.observe("rba_weight_push_seconds", seconds, stage="gather")
        self._metrics.inc("rba_weight_pushes_total")
        self._metrics.succeeded("rba_weight_last_success_timestamp_seconds")
        self._metrics.set("rba_policy_version", version.step, role="learner")

    def saved(self, seconds: float) -> None:
        """A checkpoint was committed."""
        self._metrics.observe("rba_checkpoint_seconds", seconds)
        self._metrics.succeeded("rba_checkpoint_last_success_timestamp_seconds")

    def begins_at(self, saved_s: float) -> None:
        """The run goes on from a checkpoint that was committed then, in seconds of the Unix epoch."""
        self._metrics.set("rba_checkpoint_last_success_timestamp_seconds", saved_s)

    def not_saved(self) -> None:
        """The disk refused a checkpoint."""
        self._metrics.inc("rba_checkpoint_failures_total")

    def journalled(self, counts: JournalCounts, seconds: float) -> None:
        """Records have become durable."""
        self._metrics.observe("rba_journal_commit_seconds", seconds)
        self._metrics.set("rba_journal_bytes", counts.bytes_on_disk)
        self._metrics.succeeded("rba_journal_last_success_timestamp_seconds")

    def journal_refused(self) -> None:
        """The disk refused to make records durable."""
        self._metrics.inc("rba_journal_failed_commits_total")

    def copied(self, seconds: float) -> None:
        """A checkpoint was copied to `learner.checkpoint_copies`."""
        self._metrics.observe("rba_checkpoint_copy_seconds", seconds)
        self._metrics.inc("rba_checkpoint_copies_total", outcome="copied")

    def copy_failed(self) -> None:
        """A copy was given up."""
        self._metrics.inc("rba_checkpoint_copies_total", outcome="failed")

    def evaluated(self, figures: dict[str, float]) -> None:
        """A held-out evaluation is complete."""
        for name, value in figures.items():
            self._set("rba_evaluation", value, suite=SUITE, metric=name)

    def restored(self, ledger: Ledger, counts: Counts) -> None:
        """Totals of the run's earlier lives. Before anybody looks, or Prometheus would take them for what has just happened."""
        ledger.trained, ledger.dropped = counts.trained, Counter(counts.dropped)
        ledger.queued = ledger.unique - counts.trained - counts.dropped.total()
        self.accounts(ledger.as_dict(), counts, 0)

    def accounts(self, ledger: dict[str, Any], counts: Counts, actors: int) -> None:
        """Bring the ledger's counters up to `ledger` (see `protocol.ledger.Ledger.as_dict`), and the pairs' up to `counts`."""
        self._metrics.set("rba_groups_leased", ledger["outstanding"])
        self._metrics.set("rba_results_queued", ledger["queued"])
        self._metrics.set("rba_actors", actors)
        self._metrics.set("rba_pairs_queued", counts.pairs_unique - counts.pairs_trained - counts.pairs_dropped.total())
        for metric, name in (("granted", "leased"), ("settled", "settled"), ("expired", "expired")):
            self._upto(f"rba_leases_{metric}_total", ledger[name])
        for name in ("received", "unique", "duplicate", "trained"):
            self._upto(f"rba_results_{name}_total", ledger[name])
        for name in ("rejected", "dropped"):
            for reason, count in ledger[f"{name}_reasons"].items():
                self._upto(f"rba_results_{name}_total", count, reason)
        for name in ("received", "duplicate"):
            self._upto(f"rba_pairs_{name}_total", ledger[f"pairs_{name}"])
        for reason, count in ledger["pairs_rejected_reasons"].items():
            self._upto("rba_pairs_rejected_total", count, reason)
        self._upto("rba_pairs_unique_total", counts.pairs_unique)
        self._upto("rba_pairs_trained_total", counts.pairs_trained)
        for reason, count in counts.pairs_dropped.items():
            self._upto("rba_pairs_dropped_total", count, reason)

    def _upto(self, name: str, total: float, reason: str = "") -> None:
        more = total - self._counted[name, reason]
        if more > 0:
            self._metrics.inc(name, more, **({"reason": reason} if reason else {}))
            self._counted[name, reason] += int(more)

    def _set(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None and math.isfinite(value):
            self._metrics.set(name, value, **labels)
