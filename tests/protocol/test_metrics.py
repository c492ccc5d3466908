from __future__ import annotations

import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from protocol import metrics
from protocol.catalogue import ALL, CATALOGUE
from protocol.errors import UserError
from protocol.metrics import Metrics, UnknownMetricError

PROMISED = {
    "rba_pairs_received_total",
    "rba_pairs_unique_total",
    "rba_pairs_duplicate_total",
    "rba_pairs_rejected_total",
    "rba_pairs_trained_total",
    "rba_pairs_dropped_total",
    "rba_pairs_queued",
    "rba_policy_lag_versions",
    "rba_policy_version",
    "rba_groups_leased",
    "rba_group_outcomes_total",
    "rba_completions_total",
    "rba_generated_tokens_total",
    "rba_reward",
    "rba_reward_gap",
    "rba_speaker_consistency",
    "rba_reward_request_seconds",
    "rba_reward_errors_total",
    "rba_learner_step_seconds",
    "rba_learner_idle_seconds_total",
    "rba_actor_idle_seconds_total",
    "rba_loss",
    "rba_preference_margin",
    "rba_preference_accuracy",
    "rba_grad_norm",
    "rba_nonfinite_steps_total",
    "rba_rollbacks_total",
    "rba_weight_push_seconds",
    "rba_generation_pause_seconds",
    "rba_checkpoint_seconds",
    "rba_checkpoint_last_success_timestamp_seconds",
    "rba_evaluation",
    "rba_build_info",
}


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_catalogue_holds_what_the_design_promises() -> None:
    assert {metric.name for metric in CATALOGUE} >= PROMISED


def test_names_follow_prometheus() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))
    for metric in CATALOGUE:
        assert metric.name.startswith("rba_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not any(unit in metric.name for unit in ("_ms", "_gib", "_percent", "_us"))
        assert metric.meaning.endswith(".")
        assert set(metric.exporters) <= set(ALL)


@pytest.mark.parametrize("role", ALL)
def test_every_role_can_set_all_that_it_exports(role: str) -> None:
    metrics = Metrics(role)
    for metric in CATALOGUE:
        if role in metric.exporters:
            labels = dict.fromkeys(metric.labels, "x")
            {"counter": metrics.inc, "gauge": metrics.set, "histogram": metrics.observe}[metric.kind](metric.name, 3.0, **labels)
    found = samples(metrics)
    assert "process_resident_memory_bytes" in found
    assert "python_info" in found
    assert all(name in found for name in ("rba_build_info",))


def test_values_arrive() -> None:
    metrics = Metrics("learner")
    metrics.inc("rba_learner_steps_total")
    metrics.inc("rba_learner_steps_total", 2)
    metrics.set("rba_grad_norm", 0.25)
    metrics.observe("rba_policy_lag_versions", 2)
    metrics.inc("rba_results_dropped_total", reason="stale")
    found = samples(metrics)
    assert found["rba_learner_steps_total"] == 3
    assert found["rba_grad_norm"] == 0.25
    assert found["rba_policy_lag_versions_sum"] == 2
    assert found["rba_results_dropped_total"] == 1


def test_what_the_catalogue_lacks_is_an_error() -> None:
    metrics = Metrics("learner")
    with pytest.raises(UnknownMetricError, match="rba_typo"):
        metrics.inc("rba_typo_total")
    with pytest.raises(UnknownMetricError, match="not in the catalogue of a learner"):
        metrics.inc("rba_completions_total", finish_reason="stop")
    with pytest.raises(UnknownMetricError, match="labels"):
        metrics.inc("rba_results_dropped_total")
    with pytest.raises(UnknownMetricError, match="labels"):
        metrics.set("rba_grad_norm", 1, rank="0")
    with pytest.raises(UnknownMetricError, match="counter"):
        metrics.set("rba_learner_steps_total", 1)


def test_values_from_elsewhere_make_only_so_many_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_SERIES", 3)
    exporter = Metrics("reward")
    for kind in ("a", "b", "c", "d", "e", "a"):
        exporter.inc("rba_reward_errors_total", kind=kind)
    found = [line for line in exporter.render().decode().splitlines() if line.startswith("rba_reward_errors_total{")]
    assert sorted(found) == [
        f'rba_reward_errors_total{{kind="{kind}"}} {count}' for kind, count in (("a", 2.0), ("b", 1.0), ("c", 1.0), ("other", 2.0))
    ]


def test_a_gauge_is_exported_once_it_is_set() -> None:
    metrics = Metrics("learner")
    assert "rba_disk_free_bytes" not in samples(metrics)
    metrics.set("rba_disk_free_bytes", 0)
    assert samples(metrics)["rba_disk_free_bytes"] == 0


def test_what_a_library_registers_elsewhere_is_served_beside() -> None:
    metrics, others = Metrics("rollout"), CollectorRegistry()
    metrics.serve_beside(others, "vllm:")
    Gauge("vllm:num_requests_running", "Of vLLM.", registry=others).set(3)
    Gauge("another", "Of somebody else.", registry=others)
    assert samples(metrics)["vllm:num_requests_running"] == 3
    assert "another" not in samples(metrics)


def test_units_are_read_from_the_names() -> None:
    units = {metric.name: metric.unit for metric in CATALOGUE}
    assert units["rba_learner_idle_seconds_total"] == units["rba_checkpoint_last_success_timestamp_seconds"] == "seconds"
    assert (units["rba_weight_bytes_total"], units["rba_completions_off_ratio"], units["rba_actors"]) == ("bytes", "ratio", "")


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    first, second = Metrics("learner"), Metrics("learner")
    first.inc("rba_learner_steps_total")
    assert samples(second)["rba_learner_steps_total"] == 0


def test_they_are_served_until_closed() -> None:
    metrics = Metrics("learner")
    metrics.set("rba_grad_norm", 0.5)
    url = metrics.serve()
    assert "rba_grad_norm 0.5" in httpx.get(url).text
    with pytest.raises(UserError, match=url.split(":")[2].removesuffix("/metrics")):
        Metrics("learner").serve(port=int(url.split(":")[2].removesuffix("/metrics")))
    started_s = time.monotonic()
    metrics.close()
    assert time.monotonic() - started_s < 5
    give_up_s = time.monotonic() + 10
    while time.monotonic() < give_up_s:
        try:
            httpx.get(url, timeout=1)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            continue  # accepted just before it ended
        time.sleep(0.02)
    pytest.fail("it still answers")
