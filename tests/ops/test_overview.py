from __future__ import annotations

import json
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.watched import Watched
from ops.control import targets
from ops.orders import Phase


def run_for(watched: Watched, seconds: int) -> None:
    began_s = time.monotonic() - seconds
    for second in range(seconds + 1):
        watched.answer(float(second), began_s + second)
        watched.overview.measure(began_s + second)


def value(watched: Watched, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(watched.metrics.render().decode())
    return next(each.value for family in families for each in family.samples if (each.name, each.labels) == (name, labels))


def test_the_status_tells_what_limits_the_job_and_how_its_figures_went() -> None:
    watched = Watched(actors=2)
    run_for(watched, 40)
    status = json.loads(json.dumps(watched.overview.status()))
    assert status["bottleneck"]["stage"] == "learner"
    assert status["bottleneck"]["text"] == "the learner: busy 95% of its time, actors wait 38% for leases"
    assert status["load"]["actors_idle"] == pytest.approx(0.41, abs=0.001)
    assert status["load"]["busy"]["learner"] == pytest.approx(0.95, abs=0.001)
    assert status["figures"]["consistency"] == pytest.approx(0.7)
    assert status["trends"]["reward"] == [pytest.approx(0.412)] * 4
    assert (status["checkpoint"], status["ledger_broken"]) == ({"step": 40, "age_s": 62.0}, [])
    by_id = {each["id"]: each for each in status["processes"]}
    assert by_id["rollout-1"]["work"]["tokens_per_s"] == pytest.approx(200.0, abs=0.1)
    assert by_id["rollout-1"]["work"]["waits_for"] == "leases"
    assert by_id["reward-0"]["work"]["items_per_s"] == pytest.approx(80.0, abs=0.1)


def test_the_supervisor_exports_how_busy_the_stages_are_and_what_is_wanted() -> None:
    watched = Watched(actors=3, rewards=2)
    run_for(watched, 20)
    watched.overview.count()
    assert value(watched, "rba_stage_busy_ratio", stage="learner") == pytest.approx(0.95)
    assert value(watched, "rba_stage_busy_ratio", stage="generation") == pytest.approx(0.58)
    assert (value(watched, "rba_rewards_wanted"), value(watched, "rba_actors_wanted")) == (2, 3)


def test_what_is_wrong_with_a_process_is_said_at_its_row_too() -> None:
    watched = Watched(actors=2)
    run_for(watched, 10)
    watched.supervision.phases["rollout-1"] = Phase.QUARANTINED
    status = watched.overview.status()
    assert [each["problem"] for each in status["processes"] if each["problem"]] == status["problems"]
    assert not status["healthy"]


def test_a_main_loop_that_hangs_is_told() -> None:
    watched = Watched(actors=2)
    run_for(watched, 10)
    before_s = time.time()
    watched.overview.count()
    assert value(watched, "rba_supervisor_last_success_timestamp_seconds") == pytest.approx(before_s, abs=60)
    assert watched.overview.status()["healthy"]
    watched.overview._turned_s -= 45
    status = watched.overview.status()
    assert (status["healthy"], len(status["problems"])) == (False, 1)
    assert "the supervisor has not looked after its processes for 4" in status["problems"][0]


def test_a_ray_that_does_not_answer_keeps_nobody_waiting() -> None:
    watched = Watched(actors=1)
    asked, go_on = threading.Event(), threading.Event()
    answers = ["10.0.0.1:8085"]

    def exporters() -> list[str]:
        asked.set()
        assert go_on.wait(60)
        return answers

    fleet = watched.overview._watched[1].fleet  # type: ignore[index]
    fleet.exporters = exporters  # type: ignore[method-assign]
    waiting = threading.Thread(target=watched.overview.ray_exporters)
    waiting.start()
    assert asked.wait(60)
    assert watched.overview.ray_exporters() == []
    go_on.set()
    waiting.join(60)
    assert watched.overview.ray_exporters() == answers


def test_a_ray_that_fails_to_answer_costs_no_other_target() -> None:
    watched = Watched(actors=1)
    fleet = watched.overview._watched[1].fleet  # type: ignore[index]
    fleet.exporters = lambda: ["10.0.0.1:8085"]  # type: ignore[method-assign]
    assert watched.overview.ray_exporters() == ["10.0.0.1:8085"]

    def gone() -> list[str]:
        raise ConnectionError("Ray has ended")

    fleet.exporters = gone  # type: ignore[method-assign]
    for _ in range(2):  # and the next one may ask again
        assert watched.overview.ray_exporters() == ["10.0.0.1:8085"]


def test_a_run_that_cleans_up_is_not_one_that_hangs() -> None:
    watched = Watched(actors=2)
    run_for(watched, 10)
    watched.overview.count()
    watched.metrics.set("rba_quarantined", 1, role="rollout")
    watched.overview.over()
    watched.overview._turned_s -= 45
    status = watched.overview.status()
    assert (status["state"], [each for each in status["problems"] if "looked after" in each]) == ("stopping", [])
    assert value(watched, "rba_quarantined", role="rollout") == 0


def test_prometheus_is_told_addresses_that_it_can_reach() -> None:
    watched = Watched(actors=2)
    watched.fleet.places["rollout-1"] = ("10.0.0.7", 4711)
    watched.fleet.descriptions["rollout-1"]["metrics_url"] = "http://0.0.0.0:9100/metrics"
    watched.fleet.places["reward-0"] = ("10.0.0.8", 4712)
    watched.fleet.descriptions["reward-0"] |= {
        "metrics_url": "http://0.0.0.0:9200/metrics",
        "endpoints": {"rewards": "http://0.0.0.0:9200"},
    }
    run_for(watched, 2)
    status = watched.overview.status()
    found = {each["labels"]["process"]: each["targets"] for each in targets(status)}
    assert (found["rollout-1"], found["reward-0"]) == (["10.0.0.7:9100"], ["10.0.0.8:9200"])
    assert found["rollout-0"][0].startswith("127.0.0.1:")
    assert status["endpoints"]["rewards"] == ["http://10.0.0.8:9200"]


def test_a_learner_that_starts_again_has_trained_nothing_meanwhile() -> None:
    watched = Watched(actors=1)
    began_s = time.monotonic() - 100
    for second in range(100):
        watched.answer(float(min(second, 40)), began_s + second)  # what it has trained stays as it is
        if 50 <= second < 60:
            watched.fleet.statuses["learner-0"] = {"state": "starting", "rank": 0}
        watched.overview.measure(began_s + second)
        status = watched.overview.status()
        if second >= 72:
            assert (status["figures"]["pairs_per_s"], status["figures"]["groups_per_s"]) == (0.0, 0.0), second
        assert (status["step"], status["steps"]) == (41, 130)
    assert max(status["trends"]["pairs_per_s"]) < 4
