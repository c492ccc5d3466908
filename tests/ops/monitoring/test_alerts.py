"""Every alert, by `promtool test rules`: it fires, it does not while all is well, and it ends."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.monitoring.alerts import alerts
from ops.monitoring.limits import GIB, Limits, duration
from ops.monitoring.rules import rules
from protocol.catalogue import CATALOGUE
from tests import debian
from tests.ops.monitoring.stories import (
    ACKED,
    ACTOR,
    CLOCK,
    ERRORS,
    FREE,
    HEALTHY,
    MINUTES,
    PROCESSES,
    QUARANTINED,
    QUIET,
    REFUSED,
    REWARD,
    SAVED,
    STALE,
    STEP,
    SUPERVISOR,
    TURNED,
    Run,
    Value,
    during,
    growing,
    jumps,
    missing,
    of,
    stands,
    steady,
    up,
)  # fmt: skip

ALERTS = {each.name: each for each in alerts(Limits())}


@dataclasses.dataclass(frozen=True)
class Story:
    """What is different, from minute 60 on; when the alert does not fire yet, fires, and does not any more."""

    differs: Run
    before: int
    fires: int
    over: int | None = None
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


def step(value: float, usual: float, end: int = 90) -> Value:
    return during(60, end, steady(value), steady(usual))


STORIES: dict[str, list[Story]] = {
    "LearnerStalled": [
        Story({STEP: stands(60, 150, CLOCK)}, 85, 100, 160),
        Story({STEP: missing(60, MINUTES + 1, CLOCK)}, 85, 100),  # its exporter hangs with it
        Story({STEP: missing(0, MINUTES + 1, CLOCK)}, 25, 40),  # there has never been a step
    ],
    "NoPairsAcked": [
        Story({ACKED: stands(60, 150, CLOCK)}, 100, 115, 160),
        Story({ACKED: missing(0, MINUTES + 1, CLOCK)}, 44, 55),
    ],
    "LedgerMismatch": [
        Story({of("rba_leases_expired_total"): jumps(60, 1, 1, growing(0.5))}, 62, 70),
        Story({of("rba_results_duplicate_total"): jumps(60, 1, 1, growing(0.5))}, 62, 70),
        Story({of("rba_results_queued"): during(60, 90, growing(0.5, 2), growing(0.5))}, 62, 70, 95),
    ],
    "StalenessDropHigh": [
        Story({STALE: jumps(60, 180, 60, growing(0.5)), of("rba_results_trained_total"): jumps(60, -180, 60, growing(9))}, 61, 80, 140)
    ],
    "ActorCountLow": [
        Story({PROCESSES: step(1, 2)}, 70, 80, 95),
        Story({of("rba_actors"): step(1, 2)}, 70, 80, 95),
        Story({of("rba_actors_wanted", SUPERVISOR): step(4, 1)}, 70, 80, 95),
    ],
    "WeightsLag": [
        Story({of("rba_policy_version", ACTOR): stands(60, 120, growing(2, -2))}, 65, 80, 130, {"process": "rollout-0"}),
        Story({of("rba_policy_version", ACTOR): missing(0, MINUTES + 1, CLOCK)}, 24, 40, labels={"process": "rollout-0"}),
    ],
    "RewardServerErrors": [Story({ERRORS: jumps(60, 3000, 40, growing(1))}, 61, 75, 125)],
    "AuthFailures": [
        Story({REFUSED: missing(0, 61, steady(30))}, 59, 63, 75, {"socket": "pairs"}),
        Story({REFUSED: jumps(60, 50, 5, steady(3))}, 59, 68, 90, {"socket": "pairs"}),
        Story({REFUSED: lambda minute: 500 if minute < 60 else 20 * (minute - 59)}, 59, 63, labels={"socket": "pairs"}),  # by a new life
        Story({REFUSED: lambda minute: 3 if minute < 60 else None if minute < 80 else 53}, 59, 83, 95, {"socket": "pairs"}),  # unseen
        Story({REFUSED: lambda minute: 500 if minute < 60 else None if minute < 80 else 53}, 59, 83, 95, {"socket": "pairs"}),
        Story({REFUSED: lambda minute: 500 + 30 * (minute > 57) if minute < 60 else 3}, 57, 62, 75, {"socket": "pairs"}),
    ],
    "TargetDown": [
        Story({up(REWARD): step(0, 1)}, 62, 70, 95, {"role": "reward", "process": "reward-0"}),
        Story({up(SUPERVISOR): step(0, 1)}, 62, 70, 95, {"role": "supervisor", "process": "supervisor-0"}),
        Story({QUARANTINED: step(1, 0)}, 62, 70, 95, {"role": "reward"}),
        Story({TURNED: stands(60, 120, CLOCK)}, 63, 75, 125, {"role": "supervisor", "process": "supervisor-0"}),  # its main loop hangs
    ],
    "NonFiniteSteps": [Story({of("rba_nonfinite_steps_total"): jumps(60, 1, 1, steady(0))}, 59, 62, 75)],
    "RewardCollapse": [
        Story(
            {
                of("rba_reward_bucket", ACTOR, ', le="0"'): jumps(120, 4500, 60, growing(2)),
                of("rba_reward_bucket", ACTOR, ', le="1"'): jumps(120, 900, 60, growing(80)),
            },
            119, 150, 250,
        )
    ],
    "CheckpointOld": [
        Story({SAVED: stands(60, 330, CLOCK)}, 295, 310, 335),
        Story({SAVED: missing(0, MINUTES + 1, CLOCK)}, 230, 250),
        Story({of("rba_checkpoint_failures_total"): jumps(60, 1, 1, steady(0))}, 59, 68, 80),
    ],
    "JournalDiskLow": [
        Story({FREE: step(4 * GIB, 500e9)}, 59, 65, 160),
        Story({FREE: growing(-2e9, 800e9)}, 150, 190),  # it is full at 400
        Story({of("rba_journal_failed_commits_total"): jumps(60, 100, 20, steady(0))}, 59, 70, 100),
    ],
}  # fmt: skip


def series(run: Run, name: str, minutes: int) -> list[dict[str, str]]:
    """As promtool reads it, so far. Where there is no value the series has ended, as Prometheus notes it when a scrape lacks it."""

    def values(value: Value) -> str:
        told = [value(minute) for minute in range(minutes + 1)]
        return " ".join("stale" if each is None else f"{each:.10g}" for each in told)

    return [{"series": key.replace("{", '{run="' + name + '", ', 1), "values": values(value)} for key, value in run.items()]


def asked(expr: str, minute: int, *found: str) -> dict[str, Any]:
    """A query, and the labels of what it finds."""
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": [{"labels": labels, "value": 1} for labels in found]}


def promtool(folder: Path, name: str, *tests: dict[str, Any]) -> None:
    """Run the tests with all recorded series and the alert of that name, or all alerts."""
    written = yaml.safe_load(rules())
    for group in written["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") in {None, name or rule.get("alert")}]
    (folder / "rules.yaml").write_text(yaml.safe_dump(written))
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": list(tests)}))
    done = subprocess.run([debian.program("promtool"), "test", "rules", file.name], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


LONG = 200
"""Minutes of a run on which nothing is wrong: longer than anything but a checkpoint may take."""
EVER = f"count by (alertname, run) (last_over_time(ALERTS{{alertstate='firing'}}[{LONG}m])) > 0"


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_and_ends(name: str, tmp_path: Path) -> None:
    tests = []
    for story in STORIES[name]:
        assert set(story.differs) <= set(HEALTHY), "what differs is part of a healthy run"
        labels = {"alertname": name, "run": "night", **story.labels}
        expr = f"max by ({', '.join(labels)}) (ALERTS{{alertname='{name}', alertstate='firing'}})"
        fires = "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
        over = [asked(expr, story.over)] if story.over is not None else []
        queries = [asked(expr, story.before), asked(expr, story.fires, fires), *over, asked("ALERTS{run='day'}", story.fires)]
        last = story.over or story.fires
        runs = [*series({**HEALTHY, **story.differs}, "night", last), *series(HEALTHY, "day", last)]
        tests.append({"interval": "1m", "input_series": runs, "promql_expr_test": queries})
    promtool(tmp_path, name, *tests)


@pytest.mark.parametrize("what", QUIET)
def test_none_fires(what: str, tmp_path: Path) -> None:
    test = {"interval": "1m", "input_series": series(QUIET[what], "night", LONG), "promql_expr_test": [asked(EVER, LONG)]}
    promtool(tmp_path, "", test)


def test_a_collapse_of_rewards_that_are_small_anyway_is_seen(tmp_path: Path) -> None:
    """ArmoRM's lie between 0 and 0.2."""
    usual, collapsed = [0.03, 0.06, 0.09, 0.11, 0.13, 0.15, 0.17], [0.005, 0.01, 0.015]
    bounds = [*next(metric.buckets for metric in CATALOGUE if metric.name == "rba_reward"), float("inf")]

    def seen(le: float) -> Value:
        before, after = (sum(reward <= le for reward in rewards) / len(rewards) for rewards in (usual, collapsed))
        return lambda minute: 100 * (before * min(minute, 120) + after * max(0, minute - 120))

    buckets = {of("rba_reward_bucket", ACTOR, f', le="{le:g}"'.replace("inf", "+Inf")): seen(le) for le in bounds}
    run = {**{name: values for name, values in HEALTHY.items() if "rba_reward_bucket" not in name}, **buckets}
    expr = "count by (alertname) (ALERTS{alertstate='firing'})"
    queries = [asked(expr, 119), asked(expr, 150, '{alertname="RewardCollapse"}')]
    promtool(tmp_path, "RewardCollapse", {"interval": "1m", "input_series": series(run, "night", 150), "promql_expr_test": queries})


def test_the_rules_are_valid(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules())
    command = [debian.program("promtool"), "check", "rules", "rules.yaml"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "FAILED" not in checked.stdout


def test_every_alert_has_a_story_and_words() -> None:
    assert set(STORIES) == set(ALERTS)
    for each in ALERTS.values():
        assert "$labels.run" in each.summary
        assert each.description.endswith(".")


def test_times_are_scaled_and_nothing_else() -> None:
    usual, short = Limits(), Limits().scaled(0.01)
    assert short.stalled_s == 18
    assert short.disk_free_bytes == usual.disk_free_bytes
    assert [duration(seconds) for seconds in (7200, 90, 60, 1.2, 0.5)] == ["2h", "90s", "1m", "1200ms", "500ms"]
