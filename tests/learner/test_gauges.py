from __future__ import annotations

import math
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from learner.clock import Work, WorkClock
from learner.gauges import Gauges, free_bytes
from learner.history import History
from learner.life import Life
from learner.record import Record
from protocol.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(metrics.render().decode())
    return next(each.value for family in families for each in family.samples if (each.name, each.labels) == (name, labels))


def test_a_wait_counts_while_it_lasts() -> None:
    now_s, metrics = 0.0, Metrics("learner")
    clock, gauges = WorkClock(lambda: now_s), Gauges(metrics)
    with clock.at(Work.PAIRS):
        now_s = 2.0
        gauges.waited(clock.seconds())
        assert value(metrics, "rba_learner_idle_seconds_total", reason="pairs") == 2.0
        with clock.at(Work.PUBLISH):
            now_s = 3.0
        now_s = 4.0
    with clock.at(Work.STEP):
        now_s = 14.0
    gauges.waited(clock.seconds())
    assert value(metrics, "rba_learner_idle_seconds_total", reason="pairs") == 3.0
    assert value(metrics, "rba_learner_idle_seconds_total", reason="evaluation") == 0.0
    assert {work: seconds for work, seconds in clock.seconds().items() if seconds} == {Work.PAIRS: 3.0, Work.PUBLISH: 1.0, Work.STEP: 10.0}


def test_an_error_ends_what_the_clock_counts_for() -> None:
    now_s = 0.0
    clock = WorkClock(lambda: now_s)
    with pytest.raises(ValueError, match="bad"), clock.at(Work.STEP):
        raise ValueError("bad")
    now_s = 5.0
    assert clock.seconds()[Work.OTHER] == 5.0


def test_free_space_is_looked_up_whenever_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("learner")
    Gauges(metrics).watch_disk(tmp_path)
    assert value(metrics, "rba_disk_free_bytes") > 0
    monkeypatch.setattr("learner.gauges.shutil.disk_usage", lambda _: type("Usage", (), {"free": 5})())
    assert value(metrics, "rba_disk_free_bytes") == 5
    monkeypatch.undo()
    assert math.isnan(free_bytes(tmp_path / "gone"))


def test_an_acknowledgement_leaves_its_time() -> None:
    metrics, before_s = Metrics("learner"), time.time()
    Gauges(metrics).acknowledged()
    assert value(metrics, "rba_results_last_success_timestamp_seconds") >= before_s


def test_a_rank_that_follows_exports_no_zeros() -> None:
    assert "rba_learner_steps_total" not in Metrics("learner", "1", bare=True).render().decode()


def test_totals_of_earlier_lives_are_there_from_the_start_and_add_up() -> None:
    metrics = Metrics("learner")
    life = Life(lineage=1, trained=90, dropped=Counter(stale=5), duplicate=2, expired=3)
    gauges = Gauges(metrics)
    gauges.restored(life.ledger(results=4), life.counts())
    assert value(metrics, "rba_results_received_total") == 101
    assert value(metrics, "rba_results_unique_total") == 99
    assert value(metrics, "rba_results_trained_total") == 90
    assert value(metrics, "rba_results_queued") == 4
    ledger = life.ledger(results=4)
    ledger.received, ledger.unique, ledger.settled = 102, 100, 100
    gauges.accounts({**ledger.as_dict(), "queued": 5}, life.counts(), actors=1)
    assert value(metrics, "rba_results_received_total") == 102


def test_the_checkpoint_that_a_life_begins_at_is_the_last_one(tmp_path: Path) -> None:
    digests = tmp_path / "checkpoints" / "step-3" / "digests.json"
    digests.parent.mkdir(parents=True)
    digests.write_text("{}")
    saved_s = time.time() - 500
    os.utime(digests, (saved_s, saved_s))
    metrics = Metrics("learner")
    life = Life(lineage=1, step=3)
    record = Record(tmp_path, Gauges(metrics), History(life, []), 6)
    assert record.checkpoint is not None
    assert (record.checkpoint[0], time.monotonic() - record.checkpoint[1]) == (3, pytest.approx(500, abs=60))
    assert value(metrics, "rba_checkpoint_last_success_timestamp_seconds") == pytest.approx(saved_s, abs=1)
    assert Record(tmp_path / "new", Gauges(Metrics("learner")), History(Life(), []), 6).checkpoint is None
