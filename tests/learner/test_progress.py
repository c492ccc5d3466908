from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from learner.events import Events, samples_due
from learner.figures import Figures, StepFigures, step_event
from learner.intake import Batch
from learner.progress import Progress
from tests.learner.groups import item_group


def test_idle_is_the_share_of_waiting_between_the_first_and_the_last_step() -> None:
    progress = Progress()
    progress.waited(30.0)  # the pipeline fills
    progress.paused(12.0)
    assert progress.idle == 0.0
    progress.stepped(100.0, 101.0, [0, 0])
    progress.waited(2.0)
    progress.paused(3.0)
    progress.stepped(106.0, 108.0, [1, 2])
    assert progress.training_s == pytest.approx(5.0)
    assert progress.idle == pytest.approx(0.4)
    assert progress.policy_lag() == {"mean": 0.75, "p95": 2, "max": 2}


def test_nothing_trained_gives_zeros() -> None:
    closing = Progress().closing()
    assert closing["policy_lag"] == {"mean": 0.0, "p95": 0, "max": 0}
    assert closing["idle"] == {"learner": 0.0}
    assert json.dumps(closing)


def test_events_are_json_whatever_the_numbers(tmp_path: Path) -> None:
    events = Events(tmp_path, clock=lambda: 12.0)
    events.write("step", grad_norm=math.inf, loss={"total": math.nan}, names=("a", 1))
    assert json.loads((tmp_path / "events.jsonl").read_text()) == {
        "event": "step", "time_s": 12.0, "grad_norm": None, "loss": {"total": None}, "names": ["a", 1],
    }  # fmt: skip
    events.samples(5, [item_group()])
    (line,) = (tmp_path / "samples" / "step-5.jsonl").read_text().splitlines()
    assert [answer["role"] for answer in json.loads(line)["answers"]] == ["rejected", "", "chosen"]
    assert json.loads(line)["answers"][0]["policy_versions"] == ["0.0"]
    events.close()


def test_samples_are_few() -> None:
    assert sum(samples_due(step, 1000) for step in range(1, 1001)) == 21
    assert samples_due(1, 3)


def test_figures_of_a_step_are_means_of_what_was_there() -> None:
    done = StepFigures(
        Figures(loss=4.0, preference=1.2, margin=0.5, preferred=1, groups=4, groups_with_pairs=2, pairs=2),
        3.0,
        True,
        1e-4,
        {"forward": 0.1},
    )
    event = step_event(Batch([item_group()], [1]), done, 2.0)
    assert event["loss"] == {"total": 1.0, "preference": 0.6, "cross_entropy": None}
    assert (event["margin"], event["preference_accuracy"], event["reward"]) == (0.25, 0.5, 0.5)
    assert event["policy_lag"] == {"mean": 1.0, "max": 1}
    assert event["groups_per_s"] == 2.0
