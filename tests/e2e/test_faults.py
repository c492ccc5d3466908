"""Faults in a real job: processes are killed while it runs."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ops import guard
from tests.e2e import job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def sampled(actor: dict[str, Any]) -> bool:
    """True when an actor has an answer."""
    with urllib.request.urlopen(actor["metrics_url"], timeout=5) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return any(float(line.rpartition(" ")[2]) for line in lines if line.startswith("rba_completions_total{"))


def test_a_spare_takes_over_from_a_killed_actor_which_comes_back_and_so_does_a_killed_learner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "e2e-faults"
    overrides = ("learner.steps=100000", "learner.keep_checkpoints=2", "learner.checkpoint_every=2", "evaluation.groups=0")
    launched = job.start(run_dir, *overrides, "fleet.restart_wait_s=0.2", "fleet.spare_actors=1")
    try:
        job.wait_until(lambda: job.process_of(run_dir, "rollout-1").get("policy_version"), 240, "a spare that has a policy version")
        job.wait_until(lambda: job.status(run_dir).get("step", 0) >= 2, 240, "two learner steps")
        run_id, actor = job.status(run_dir)["run_id"], job.process_of(run_dir, "rollout-0")
        before = guard.processes(f"{run_id}/rollout-0", guard.PROCESS)
        assert len(before) > 1, "the actor and its engine"
        spare = job.process_of(run_dir, "rollout-1")
        assert (spare["spare"], sampled(spare)) == (True, False)
        killed_s = time.monotonic()
        os.kill(actor["pid"], signal.SIGKILL)
        job.wait_until(lambda: sampled(spare), 60, "an answer of the spare", every_s=0.05)
        took_s = time.monotonic() - killed_s
        assert job.process_of(run_dir, "rollout-0")["policy_version"] is None, "it was not the killed one that came back"
        with capsys.disabled():
            print(f"\nfrom the kill of the only actor to the first answer of its spare: {took_s:.1f} s")
        job.wait_until(lambda: job.process_of(run_dir, "rollout-0").get("restarts") == 1, 30, "the verdict")
        job.wait_until(lambda: job.process_of(run_dir, "rollout-0").get("phase") == "running", 120, "its return")
        after = guard.processes(f"{run_id}/rollout-0", guard.PROCESS)
        assert not set(before) & set(after), "an engine outlived its actor"
        assert after
        step = job.status(run_dir).get("step", 0)
        job.wait_until(lambda: job.status(run_dir).get("step", 0) > step, 120, "a step with the actor that came back")

        os.kill(job.process_of(run_dir, "learner-0")["pid"], signal.SIGKILL)
        job.wait_until(lambda: (job.status(run_dir).get("policy_version") or {}).get("lineage") == 1, 120, "its return")
        step = job.status(run_dir).get("step", 0)
        job.wait_until(lambda: job.status(run_dir).get("step", 0) > step + 2, 120, "steps of its new life")
        launched.send_signal(signal.SIGTERM)
        output, _ = launched.communicate(timeout=30)
    finally:
        job.end(launched)
    assert launched.returncode == 0, output
    summary = job.summary(run_dir)
    assert summary["status"] == "stopped"
    assert summary["restarts"] == {"rollout-0": 1, "learner-0": 1}
    assert summary["policy_version"] == {"lineage": 1, "step": summary["learner_steps"]}
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    ledger = events[-1]["ledger"]
    assert ledger["trained"] == summary["learner_steps"] * 4, "each step trained once in this lineage of checkpoints"
    assert ledger["leased"] == ledger["settled"] + ledger["outstanding"] + ledger["expired"]
    assert ledger["received"] == ledger["unique"] + ledger["duplicate"] + ledger["rejected"]
    assert ledger["unique"] == ledger["trained"] + ledger["dropped"] + ledger["queued"]
    assert set(ledger["rejected_reasons"]) <= {"unregistered"}, "results of the life before are taken"
    assert not job.leftovers("e2e-faults")


def test_a_stop_waits_for_what_the_actors_sample(tmp_path: Path) -> None:
    run_dir = tmp_path / "e2e-stop"
    launched = job.start(run_dir, "learner.steps=100000", "evaluation.groups=0", "fleet.drain_s=60")
    try:
        job.wait_until(lambda: job.status(run_dir).get("step", 0) >= 2, 240, "two learner steps")
        stopped = job.rba("stop", str(run_dir), timeout_s=150)
        output, _ = launched.communicate(timeout=120)
    finally:
        job.end(launched)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert launched.returncode == 0, output
    assert job.summary(run_dir)["status"] == "stopped"
    ledger = job.events(run_dir)[-1]["ledger"]
    assert ledger["leased"] == ledger["settled"] + ledger["expired"], "nothing is out"
    assert ledger["unique"] > ledger["trained"]
    left = [json.loads(line) for line in (run_dir / "logs" / "rollout-0.jsonl").read_text().splitlines()]
    assert any(line["event"] == "leaving" for line in left)
    ended = next(line for line in left if line["event"] == "ended")
    assert (ended["reason"], ended["held_groups"]) == ("rba stop", 0)
    assert ended["groups"] == ledger["unique"], "all that it sampled is in the ledger, and what it had begun with it"
    assert not job.leftovers("e2e-stop")
