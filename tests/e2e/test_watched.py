"""The main job under a real Prometheus: it finds every process, and every metric, panel and rule has something to say."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import ports
from ops.monitoring.limits import Limits
from ops.monitoring.panels import ROWS
from protocol.catalogue import CATALOGUE
from tests.e2e import job
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

USUAL = Limits()
QUICK = dataclasses.replace(USUAL.scaled(0.05), actors_s=USUAL.actors_s, disk_ahead_s=USUAL.disk_ahead_s, disk_trend_s=USUAL.disk_trend_s)
"""Times of the alerts: short, or none would have the time to fire. Engines start, and others write to the disk, as slowly as ever."""
WINDOW = "10s"
NOT_HERE = {
    "rba_results_rejected_total": "no result is refused",
    "rba_pairs_rejected_total": "no result is refused",
    "rba_messages_refused_total": "nobody sends nonsense",
    "rba_checkpoint_copies_total": "checkpoints are not copied",
    "rba_authentication_failures_total": "the sockets have no keys",
    "rba_reward_errors_total": "no reward fails",
}
"""What a healthy job on one machine need not export."""
NO_DATA = {
    "rba_results_rejected_total": "no result is refused",
    "rba_pairs_rejected_total": "no result is refused",
    "rba_messages_refused_total": "nobody sends nonsense",
    "rba_authentication_failures_total": "the sockets have no keys",
    "rba_checkpoint_copies_total": "checkpoints are not copied",
    "rba_checkpoint_copy_seconds": "checkpoints are not copied",
    "rba_reward_errors_total": "no reward fails",
    "ray_": "Ray may be installed without its agents",
}
"""Why a query of the dashboard may be without a figure, by a metric that it names."""


def missing(prometheus: Prometheus) -> set[str]:
    """Metrics of the catalogue that no process exports and that ought to be there."""
    found = {labels["__name__"].removesuffix("_bucket") for labels, _ in prometheus.query('{__name__=~"rba_.+"}')}
    return {metric.name for metric in CATALOGUE} - found - set(NOT_HERE)


def empty(prometheus: Prometheus) -> list[str]:
    """Queries of the dashboard that give no figure and ought to."""
    found = []
    for query in (query for panels in ROWS.values() for panel in panels for query in panel.queries):
        expr = query.expr.replace("$run", ".+").replace("$process", ".+").replace("$__rate_interval", WINDOW)
        if not any(math.isfinite(value) for _, value in prometheus.query(expr)) and not any(name in expr for name in NO_DATA):
            found.append(expr)
    return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Prometheus, Path]]:
    """A Prometheus that waits for the job, and the folder of the job, which goes on."""
    control_port, run_dir = ports.free(), tmp_path / "e2e-watched"
    overrides = (
        "learner.steps=100000",
        "learner.publish_every=1",  # with versions further apart some results are too old, which is an alert
        "learner.checkpoint_every=3",
        "learner.keep_checkpoints=2",
        f"network.control_port={control_port}",
    )
    with Prometheus(tmp_path / "prometheus", [control_port], QUICK) as prometheus:
        launched = job.start(run_dir, *overrides)
        try:
            job.wait_until(lambda: job.status(run_dir).get("step", 0) >= 4, 240, "four learner steps")
            yield prometheus, run_dir
            launched.send_signal(signal.SIGTERM)
            launched.communicate(timeout=30)
        finally:
            job.end(launched)
        assert not prometheus.ever_fired()


def test_prometheus_sees_all_of_a_job(watched: tuple[Prometheus, Path]) -> None:
    prometheus, run_dir = watched
    prometheus.until(lambda: not missing(prometheus), f"all metrics, and not {missing(prometheus)} missing")
    prometheus.until(lambda: not empty(prometheus), f"all panels, and not {empty(prometheus)} without a figure")
    assert set(prometheus.targets().values()) == {"up"}
    assert {name.rpartition("-")[0] for name in prometheus.targets()} >= {
        "learner", "rollout", "reward", "weight_store", "fetcher", "supervisor",
    }  # fmt: skip
    broken = [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"]
    assert not broken
    figures_are_plausible(prometheus)

    assert job.rba("scale", str(run_dir), "--actors", "2").returncode == 0
    prometheus.until(lambda: prometheus.targets().get("rollout-1") == "up", "the further actor among the targets", 200)
    assert job.rba("scale", str(run_dir), "--actors", "1").returncode == 0
    prometheus.until(lambda: "rollout-1" not in prometheus.targets(), "its end among the targets", 100)


def figures_are_plausible(prometheus: Prometheus) -> None:
    """Different processes tell of the same, in the same numbers."""

    def rate(what: str) -> float:
        return prometheus.value(f"sum(rate({what}[20s]))") or 0.0

    def total(what: str) -> float:
        return prometheus.value(f"sum({what})") or 0.0

    assert rate("rba_learner_steps_total") > 0
    assert rate("rba_results_trained_total") == pytest.approx(4 * rate("rba_learner_steps_total"), rel=0.5)
    assert rate("rba_generated_tokens_total") == pytest.approx(rate('{__name__=~"vllm[:_]generation_tokens_total"}'), rel=0.5)
    assert total("rba_pairs_sampled_total") >= total("rba_pairs_trained_total") > 0
    assert total("rba_groups_sampled_total") >= total("rba_results_trained_total") > 0
    assert total("rba_completions_total") >= total("rba_reward_items_total") > 0
    assert total("rba_policy_lag_versions_bucket{le='2.0'}") == total("rba_policy_lag_versions_count") > 0, "within max_policy_lag"
    assert prometheus.value("run:rba_ledger_mismatch:groups") == 0
    assert prometheus.value("max(rba_stage_busy_ratio)") <= 1.0  # type: ignore[operator]
    assert prometheus.value("min(time() - rba_results_last_success_timestamp_seconds)") < 60  # type: ignore[operator]
    assert total("rba_actors") == total("rba_actors_wanted") == total('rba_processes{role="rollout"}') == 1
    assert total("rba_disk_free_bytes") > 0
