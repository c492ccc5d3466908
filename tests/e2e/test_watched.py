"""The main job under a real Prometheus: it finds every process, and every metric, panel and rule has something to say."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import ports
from ops.monitoring.panels import ROWS
from protocol.catalogue import CATALOGUE
from tests.e2e import job
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WINDOW = "8s"
NOT_HERE = {
    "rba_results_rejected_total": "no result is refused",
    "rba_pairs_rejected_total": "no result is refused",
    "rba_messages_refused_total": "nobody sends nonsense",
    "rba_checkpoint_copies_total": "checkpoints are not copied",
    "rba_authentication_failures_total": "the sockets have no keys, on loopback",
}
"""What a healthy job on one machine does not export."""
NO_DATA = {
    "rejected: {{reason}}": "no result is refused",
    "messages: {{reason}}": "nobody sends nonsense",
    "{{socket}}: {{reason}}": "the sockets have no keys, on loopback",
    "copy": "checkpoints are not copied",
    "{{outcome}} copied": "checkpoints are not copied",
}
"""The same of the dashboard's queries, by what their series are called."""


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Prometheus, int]]:
    control_port = ports.free()
    with Prometheus(tmp_path / "prometheus", [control_port]) as made:
        yield made, control_port


def missing(prometheus: Prometheus) -> set[str]:
    """Metrics of the catalogue that no process exports."""
    found = {labels["__name__"] for labels, _ in prometheus.query('{__name__=~"rba_.+"}')}
    return {metric.name for metric in CATALOGUE} - {name.removesuffix("_bucket") for name in found}


def empty(prometheus: Prometheus) -> set[str]:
    """Queries of the dashboard without a figure."""
    filled = {"$run": ".+", "$process": ".+", "$__rate_interval": WINDOW}
    queries = [query for panels in ROWS.values() for panel in panels for query in panel.queries]
    found = set()
    for query in queries:
        expr = query.expr
        for name, value in filled.items():
            expr = expr.replace(name, value)
        if not any(math.isfinite(value) for _, value in prometheus.query(expr)):
            found.add(query.legend + " " + query.expr)
    return found


def test_prometheus_sees_all_of_a_job(tmp_path: Path, prometheus: tuple[Prometheus, int]) -> None:
    seen, control_port = prometheus
    run_dir = tmp_path / "e2e-watched"
    overrides = ("learner.steps=100000", "learner.checkpoint_every=3", "learner.keep_checkpoints=2", f"network.control_port={control_port}")
    launched = job.start(run_dir, *overrides)
    try:
        job.wait_until(lambda: job.status(run_dir).get("step", 0) >= 6, 240, "six learner steps")
        seen.until(lambda: missing(seen) <= set(NOT_HERE), f"all metrics; now missing: {missing(seen) - set(NOT_HERE)}")
        print("MISSING", missing(seen))
        for each in sorted(empty(seen)):
            print("EMPTY", each)
        print(seen.ever_fired(), seen.targets())
        print([(r["name"], r["health"], r.get("lastError")) for r in seen.rules()])
        for q in (
            "sum(rate(rba_generated_tokens_total[8s]))",
            'sum(rate({__name__=~"vllm[:_]generation_tokens_total"}[8s]))',
            "rate(rba_learner_steps_total[8s])",
            "rate(rba_pairs_trained_total[8s])",
            "rate(rba_results_trained_total[8s])",
            "histogram_quantile(1,sum by (le)(rba_policy_lag_versions_bucket))",
            "run:rba_ledger_mismatch:groups",
            "rba_stage_busy_ratio",
        ):
            print(q, seen.query(q))
        import time

        t = time.monotonic()
        print(job.rba("scale", str(run_dir), "--actors", "2").stdout)
        seen.until(lambda: seen.targets().get("rollout-1") == "up", "it", 120)
        print("appeared", time.monotonic() - t)
        job.rba("scale", str(run_dir), "--actors", "1")
        seen.until(lambda: "rollout-1" not in seen.targets(), "it", 120)
        print("vanished", time.monotonic() - t)
        launched.send_signal(signal.SIGTERM)
        launched.communicate(timeout=30)
        print(seen.targets(), seen.ever_fired())
    finally:
        job.end(launched)
    assert 0
