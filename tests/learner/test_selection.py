"""The best checkpoint by validation, stopping early, and which checkpoints stay."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from configs.training import ValidationSection
from learner.checkpoint import best_step, verify
from learner.life import Life
from learner.main import Learner
from learner.selection import Selection, SelectionState, by_topic, superfluous
from protocol.messages import GroupResult, LeasedGroup, PolicyVersion, Purpose
from tests.learner.groups import group
from tests.learner.scripted import ScriptedActor, answer, run_config, write_dataset


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12), st.integers(0, 4))
def test_the_best_is_the_first_of_the_highest_and_patience_counts_from_it(values: list[float | None], patience: int) -> None:
    selection = Selection(ValidationSection(every=2, patience=patience))
    known = []
    for number, value in enumerate(values, 1):
        best = selection.saw(2 * number, {} if value is None else {"accuracy": value})
        if value is not None:
            known.append((2 * number, value))
            assert best == all(value > earlier for _, earlier in known[:-1])
    if known:
        top = max(value for _, value in known)
        first = next(step for step, value in known if value == top)
        later = [step for step, _ in known if step > first]
        assert selection.state == SelectionState(first, top, len(later))
    assert selection.exhausted == (0 < patience <= selection.state.waited)
    again = Selection(ValidationSection(every=2, patience=patience), selection.state)
    assert again.exhausted == selection.exhausted


def test_validations_are_due_at_multiples() -> None:
    assert [step for step in range(1, 10) if Selection(ValidationSection(every=3)).due(step)] == [3, 6, 9]
    assert not any(Selection(ValidationSection()).due(step) for step in range(1, 10))


def test_topics_are_capped_one_by_one() -> None:
    groups = [msgspec.structs.replace(group(number), topic="ab"[number % 3 == 0]) for number in range(9)]
    chosen = by_topic(groups, 2)
    assert [each.group_id for each in chosen] == ["group-0", "group-1", "group-2", "group-3"]


@given(st.sets(st.integers(1, 60)), st.integers(0, 5), st.sampled_from([0, 5, 7]), st.none() | st.integers(1, 60), st.integers(0, 61))
def test_what_stays_is_the_newest_the_multiples_the_best_and_the_last_good(
    steps: set[int], last: int, every: int, best: int | None, good_below: int
) -> None:
    gone = set(superfluous(sorted(steps), last, every, best, good_below))
    kept = steps - gone
    assert gone <= steps
    if not last:
        assert not gone
        return
    assert set(sorted(steps)[-last:]) <= kept
    assert best not in gone
    for step in gone:
        assert not (every and step % every == 0)
    good = [step for step in sorted(steps) if step < good_below][-1:]
    assert set(good) <= kept
    assert all(step in [*sorted(steps)[-last:], *good, best] or (every and step % every == 0) for step in kept)


def rise_and_fall(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
    """Right answers: most of them at step 4."""
    result = answer(leased, version)
    if leased.purpose is Purpose.EVALUATE and result.measures is not None:
        result.measures.exact = {0: 1, 2: 3, 4: 6, 6: 5, 8: 4}.get(version.step, 2)
    return result


def test_a_run_keeps_the_best_checkpoint_and_stops_when_it_gets_no_better(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "held out").mkdir()
    validation = write_dataset(tmp_path / "held out" / "validation.jsonl", 5, seed=2)
    base = run_config(checkpoint, tmp_path, learner={"steps": 20, "checkpoint_every": 2, "keep_checkpoints": 1, "max_policy_lag": 10})
    values = base.model_dump()
    values["data"]["validation"] = str(validation)
    values["validation"] = {"every": 2, "groups_per_topic": 2, "patience": 2}
    values["learner"]["checkpoint_copies"] = f"file://{tmp_path}/copies"
    config = type(base).model_validate(values)
    run_dir = tmp_path / "run"
    learner = Learner(config, run_dir, tmp_path / "weights")
    with ScriptedActor(learner, rise_and_fall):
        closing = learner.run()

    assert closing["status"] == "completed"
    assert closing["learner_steps"] == 8
    assert closing["best"] == {"step": 4, "accuracy": 0.6}
    assert "step 4 has the best accuracy" in closing["early_stop"]
    assert best_step(run_dir) == 4
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"step-4", "step-6", "step-8", "best.json"}  # best, good, newest
    copies = tmp_path / "copies" / "run"
    assert {path.name for path in copies.iterdir()} == {"step-2", "step-4", "step-6", "step-8", "best.json"}
    assert (copies / "best.json").read_bytes() == (run_dir / "checkpoints" / "best.json").read_bytes()
    assert [verify(path) for path in copies.glob("step-*")] == [[], [], [], []]
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    validated = [event for event in events if event["event"] == "evaluation" and event["label"].startswith("validation")]
    assert [event["policy_version"] for event in validated] == ["0.2", "0.4", "0.6", "0.8"]
    assert set(validated[0]["topics"]) == {"sums", "capitals"}
    assert Life.read(run_dir / "checkpoints" / "step-8", 1).selection == SelectionState(4, 0.6, 2)


def test_a_run_ends_when_its_time_is_over(checkpoint: Path, tmp_path: Path) -> None:
    config = run_config(checkpoint, tmp_path, learner={"steps": 100_000, "max_hours": 3 / 3600})
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")
    with ScriptedActor(learner):
        closing = learner.run()
    assert closing["status"] == "completed"
    assert 0 < closing["learner_steps"] < 100_000
    assert "hours are over" in closing["early_stop"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{closing['learner_steps']}").is_dir()
    assert closing["evaluation"]["after"]
