"""``report.html``: what a run did, on one page that needs nothing from outside. Built again any time from the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from configs.loader import PROVENANCE
from ops import curves, listening
from ops.curves import Series
from ops.history import History
from ops.rundir import RunDir
from ops.telling import clock
from protocol.errors import UserError

EVALUATED = (
    ("accuracy", "accuracy", "{:.1%}", 100, "answers equal to an acceptable one"),
    ("bleu", "BLEU", "{:.1f}", 1, "against the teacher's references"),
    ("consistency", "consistency", "{:.3f}", 1, "chrF between the answers to a group's voices"),
    ("agreement", "agreement", "{:.1%}", 100, "pairs of voices with equal answers"),
    ("reward", "reward", "{:.3f}", 1, "mean score of the answers"),
)
"""(key, name, format, what a difference is multiplied by, meaning)."""

CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("Reward of the sampled answers", (("reward", "mean"),), "{:g}"),
    ("Loss", (("loss.total", "total"), ("loss.preference", "preference"), ("loss.cross_entropy", "cross-entropy")), "{:g}"),
    ("Preference margin", (("margin", "margin"),), "{:g}"),
    ("Pairs that the policy prefers as the rewards do", (("preference_accuracy", "share"),), "{:.0%}"),
    ("Policy lag of the trained pairs", (("policy_lag.max", "oldest"), ("policy_lag.mean", "mean")), "{:g}"),
    ("Gradient norm", (("grad_norm", "norm"),), "{:g}"),
)
"""(title, ((key of a step event, name of its line), …), format of the y axis)."""


def write(run: RunDir) -> Path:
    """Write the page and return its path. Raises `UserError` for a folder without events."""
    if not run.events.is_file():
        raise UserError("the run has left no events to report", where=str(run.events), fix="give a run that has started to train")
    page = render(run)
    temporary = run.report.with_suffix(".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(run.report)
    return run.report


def render(run: RunDir) -> str:
    """The page's HTML."""
    history = History.read(run.events)
    config: dict[str, Any] = yaml.safe_load(run.config.read_text()) if run.config.is_file() else {}
    summary: dict[str, Any] = json.loads(run.summary.read_text()) if run.summary.is_file() else {}
    provenance = config.pop(PROVENANCE, {})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        run=run.path.name,
        status=summary.get("status", "unfinished"),
        reason=summary.get("reason", ""),
        headline=_headline(config, summary, history),
        facts=_facts(config, summary, history),
        evaluation=evaluation_rows(history.evaluation("before"), history.evaluation("after")),
        charts=_charts(history),
        topics=_topics(history),
        groups=listening.groups(run, config),
        ledger=list(summary.get("ledger", {}).items()),
        provenance=_flat(provenance),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )


def evaluation_rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[dict[str, str]]:
    """A card a figure: before, after and the change, as text."""
    rows = []
    for key, name, form, factor, meaning in EVALUATED:
        old, new = before.get(key), after.get(key)
        if old is None and new is None:
            continue
        change = (new - old) * factor if old is not None and new is not None else None
        digits = form[-3] if form.endswith("f}") else "1"
        rows.append(
            {
                "name": name,
                "before": "" if old is None else form.format(old),
                "after": "" if new is None else form.format(new),
                "change": "" if change is None else f"{change:+.{digits}f}" + (" points" if factor == 100 else ""),
                "direction": "" if not change else "up" if change > 0 else "down",
                "meaning": meaning,
            }
        )
    return rows


def _charts(history: History) -> list[dict[str, str]]:
    accuracy = [Series("test", history.evaluated("accuracy"))]
    if validated := history.validated("accuracy"):
        accuracy.append(Series("validation", validated))
    drawn = [("Held-out accuracy", accuracy, "{:.1%}")]
    for title, lines, form in CHARTS:
        drawn.append((title, [series for key, name in lines if (series := Series(name, history.series(key))).points], form))
    drawn.append(("Groups trained a second", [Series("groups", history.throughput())], "{:g}"))
    drawn.append(("Time that the learner waits", [Series("share", history.waiting())], "{:.0%}"))
    charts = [
        {"title": title, "svg": curves.line_chart(lines, y_format=form, label=title), "legend": curves.legend(lines)}
        for title, lines, form in drawn
    ]
    return [chart for chart in charts if chart["svg"]]


def _topics(history: History) -> list[dict[str, Any]]:
    before, after = history.topics("before"), history.topics("after")
    rows = []
    for topic in sorted({*before, *after}):
        old, new = before.get(topic, {}), after.get(topic, {})
        values = [_or_dash((new or old).get("groups"), "{:.0f}")]
        values += [_or_dash(figures.get("accuracy"), "{:.1%}") for figures in (old, new)]
        values += [_or_dash(figures.get("bleu"), "{:.1f}") for figures in (old, new)]
        rows.append({"topic": topic, "figures": values})
    return rows


def _headline(config: Mapping[str, Any], summary: Mapping[str, Any], history: History) -> str:
    strategy = {"group": "RBA-Group", "single": "RBA-Single", "sft": "plain SFT"}.get(str(config.get("strategy")), "")
    steps = summary.get("learner_steps", history.last_step)
    took = f" in {clock(summary['wall_seconds'])}" if "wall_seconds" in summary else ""
    return f"{strategy}: {steps} learner steps{took}"


def _facts(config: Mapping[str, Any], summary: Mapping[str, Any], history: History) -> list[tuple[str, str]]:
    facts = [("model", Path(config["model"]["path"]).name)] if "model" in config else []
    if "rollout" in config:
        facts.append(("rollout actors", str(config["rollout"]["actors"])))
    if not summary:
        return [*facts, ("last step", str(history.last_step))]
    version, lag, idle = summary["policy_version"], summary["policy_lag"], summary["idle"]
    restarts = ", ".join(f"{name} {count}" for name, count in summary.get("restarts", {}).items())
    return [
        *facts,
        *([("restarts", restarts)] if restarts else []),
        *([("quarantined", ", ".join(summary["quarantined"]))] if summary.get("quarantined") else []),
        ("engine", summary["engine"]),
        ("ZeRO stage", str(summary["zero_stage"])),
        ("policy version", f"{version['lineage']}.{version['step']}" if version else "–"),
        ("weight pushes", str(summary["pushes"])),
        ("policy lag", f"{_or_dash(lag['mean'], '{:.1f}')} mean, {_or_dash(lag['max'], '{:g}')} at most"),
        ("waiting", f"learner {_or_dash(idle['learner'], '{:.0%}')}, actors {_or_dash(idle['actors'], '{:.0%}')}"),
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name} ")
        elif value not in (None, [], ""):
            rows.append((f"{prefix}{name}".replace("_", " "), _text(value)))
    return rows


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
