from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.rollout.gauges import Gauges
from protocol.messages import Completion, GroupResult, Outcome, PolicyVersion, PreferencePair, Purpose
from protocol.metrics import Metrics
from tests.actors.rollout.scripted import answers, leased

STOP, CUT = "stop", "length"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    families = text_string_to_metric_families(metrics.render().decode())
    return next((each.value for family in families for each in family.samples if (each.name, each.labels) == (name, labels)), None)


def result(completions: list[Completion], pairs: int = 0, purpose: Purpose = Purpose.TRAIN) -> GroupResult:
    couples = [PreferencePair(0, 1)] * pairs
    return GroupResult(0, 0, "g0", Outcome.PAIRS if pairs else Outcome.TIED, purpose=purpose, completions=completions, pairs=couples)


@pytest.mark.parametrize(
    ("answered", "with_rewards", "without"),
    [
        ([("a", 0.5, STOP), ("b", None, STOP)], 0, 0),
        ([("a", 0.5, CUT), ("b", None, STOP)], 1, 0),  # what has a score was cut off
        ([("a", None, STOP), ("b", None, STOP)], 1, 0),
        ([("a", 0.5, CUT), ("b", 0.5, CUT)], 1, 1),
    ],
)
def test_a_group_fails_when_no_voice_has_an_answer_of_use(
    answered: list[tuple[str, float | None, str]], with_rewards: int, without: int
) -> None:
    for needed, failed in ((True, with_rewards), (False, without)):
        metrics = Metrics("rollout")
        Gauges(metrics, needs_rewards=needed).sampled(result(answers(*answered)), leased(), 0.1)
        assert value(metrics, "rba_groups_sampled_total") == 1
        assert value(metrics, "rba_groups_failed_total") == failed


def test_only_training_groups_that_were_sampled_count() -> None:
    metrics = Metrics("rollout")
    gauges = Gauges(metrics)
    gauges.sampled(result([]), leased(), 0.1)
    gauges.sampled(result(answers(("a", None)), purpose=Purpose.EVALUATE), leased(purpose=Purpose.EVALUATE), 0.1)
    assert value(metrics, "rba_groups_sampled_total") == value(metrics, "rba_groups_failed_total") == 0
    gauges.sampled(result(answers(("a", 1.0), ("b", 0.0)), pairs=3), leased(), 0.1)
    assert value(metrics, "rba_groups_sampled_total") == 1
    assert value(metrics, "rba_pairs_sampled_total") == 3


def test_successes_leave_their_time() -> None:
    metrics, before_s = Metrics("rollout"), time.time()
    gauges = Gauges(metrics)
    gauges.acknowledged()
    gauges.applied(PolicyVersion(0, 3), 0.25, 0.5)
    gauges.applied(PolicyVersion(0, 4), 0.5, 0.5)
    for what in ("rollout", "weight"):
        found = value(metrics, f"rba_{what}_last_success_timestamp_seconds")
        assert found is not None
        assert found >= before_s
    assert gauges.paused_s == 0.75


def test_consistency_is_unknown_before_the_first_group() -> None:
    gauges = Gauges(Metrics("rollout"))
    assert gauges.consistency is None
    gauges.sampled(result(answers(("a", 1.0), ("a ", 0.0), ("b", 0.0))), leased(), 0.1)
    assert gauges.consistency == pytest.approx(1 / 3)
