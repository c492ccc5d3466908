"""What happens in a run, told to everybody who keeps it: ``events.jsonl``, the metrics, the figures of the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learner.checkpoint import CHECKPOINTS, committed_s
from learner.clock import Work
from learner.collate import TrainingGroup
from learner.evaluation import Evaluation
from learner.events import Events, samples_due, set_aside_file
from learner.figures import StepFigures, step_event
from learner.gauges import Gauges
from learner.history import History
from learner.intake import Batch
from learner.life import Life
from learner.progress import Progress
from learner.recovery import Rollback
from protocol.messages import PolicyVersion
from protocol.weights.messages import Manifest


def version_step(event: dict[str, Any]) -> int:
    """Step of the policy version that an event names."""
    return int(event["policy_version"].partition(".")[2])


class Record:
    """One method for each thing that happens. One thread calls them; the figures may be read from any."""

    def __init__(self, run_dir: Path, gauges: Gauges, history: History, steps: int) -> None:
        """`history` is how an earlier life of the run left off; `steps` are those of the whole run."""
        life = history.life
        self._run_dir, self._gauges, self._steps = run_dir, gauges, steps
        self.events = Events(run_dir)
        self.progress = Progress(life.progress)
        self.evaluations: dict[str, dict[str, Any]] = {**life.evaluations, **self._measured_since(life, life.step + history.steps)}
        """Figures by label."""
        self.last: dict[str, Any] = {}
        """Figures of the last step."""
        self.checkpoint: tuple[int, float] | None = None
        """Step of the last checkpoint, and when it was committed (`time.monotonic`)."""
        if (saved_s := committed_s(run_dir, life.step)) is not None:
            gauges.begins_at(saved_s)
            self.checkpoint = life.step, time.monotonic() - max(0.0, time.time() - saved_s)
        if life.lineage:
            found = {"leased_again": history.leased_again, "steps_again": history.steps, "results_kept": history.results}
            self.events.write("resume", step=life.step, lineage=life.lineage, **found)

    def _measured_since(self, life: Life, reached: int) -> dict[str, dict[str, Any]]:
        """Evaluations behind the checkpoint, of weights that are trained again."""
        if not life.lineage:
            return {}
        rows = [row for row in self.events.read("evaluation") if life.step <= version_step(row) <= reached]
        return {row["label"]: row["figures"] for row in rows}

    def validations(self, after: int, reached: int) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, figures) of those that an earlier life made behind step `after`, up to step `reached`."""
        for label, figures in self.evaluations.items():
            kind, _, step = label.partition(" ")
            if kind == "validation" and after < int(step) <= reached:
                yield int(step), figures

    def published(self, version: PolicyVersion, manifest: Manifest, seconds: float) -> None:
        """A policy version is there for the actors."""
        self.progress.pushed(seconds)
        self._gauges.pushed(version, seconds)
        self.events.write("publish", policy_version=str(version), seconds=seconds, size_bytes=manifest.size_bytes, digest=manifest.digest)

    def measured(self, evaluation: Evaluation, seconds: float) -> dict[str, float]:
        """A held-out evaluation is complete. Returns its figures."""
        figures = evaluation.figures()
        self.evaluations[evaluation.label] = {**figures, "unmeasured": float(evaluation.unmeasured)}
        self._gauges.evaluated(figures)
        self.events.evaluation(evaluation.label, evaluation.rows)
        self.events.write(
            "evaluation",
            label=evaluation.label,
            policy_version=str(evaluation.version),
            seconds=seconds,
            figures=self.evaluations[evaluation.label],
            topics=evaluation.topics(),
        )
        return figures

    def waits(self, seconds: Mapping[Work, float]) -> None:
        """What the learner has spent its time on so far."""
        self._gauges.waited(seconds)

    def waited(self, seconds: float) -> None:
        """The next step had to wait for pairs."""
        self.progress.waited(seconds)
        self.last["idle_s"] = seconds

    def stepped(self, step: int, batch: Batch, done: StepFigures, started_s: float, ended_s: float, queued: int) -> None:
        """A step ran, and `queued` groups wait for the next ones."""
        self.progress.stepped(started_s, ended_s, batch.lags, applied=done.applied)
        figures = {**step_event(batch, done, ended_s - started_s), "idle_s": self.last.get("idle_s", 0.0)}
        self.last = {"step": step, **figures}
        self._gauges.stepped(done, batch, figures)
        self.events.write("step", **self.last, queued=queued)
        if samples_due(step, self._steps):
            self.events.samples(step, batch.items)

    def skipped(self, step: int, items: Sequence[TrainingGroup]) -> None:
        """The step had no finite loss or gradient."""
        self.events.set_aside(step, items)

    def rolled_back(self, step: int, rollback: Rollback, checkpoint: Path | None, seconds: float) -> None:
        """After `step`, weights and moments went back to those of `checkpoint`, or of the start."""
        self._gauges.rolled_back()
        self.events.write(
            "rollback",
            step=step,
            checkpoint=f"{CHECKPOINTS}/{checkpoint.name}" if checkpoint is not None else None,
            number=rollback.number,
            groups=rollback.groups,
            files=[set_aside_file(skipped) for skipped in rollback.steps],
            seconds=seconds,
        )

    def saved(self, step: int, checkpoint: Path, seconds: float) -> None:
        """A checkpoint was committed."""
        self._gauges.saved(seconds)
        self.checkpoint = step, time.monotonic()
        self.events.write("checkpoint", step=step, path=str(checkpoint.relative_to(self._run_dir)), seconds=seconds)

    def not_saved(self, step: int, why: str) -> None:
        """A checkpoint could not be written."""
        self._gauges.not_saved()
        self.events.write("checkpoint_failed", step=step, why=why)

    def ended_early(self, step: int, reason: str) -> None:
        """Training ends before its last step, without anybody having asked for it."""
        self.events.write("early_stop", step=step, reason=reason)

    def ended(self, closing: dict[str, Any]) -> None:
        """The run has ended; nothing happens any more."""
        self.events.write("end", **closing)
        self.events.close()
