"""The main job, shortened, with every real part: Ray, vLLM, reward server, ZeroMQ, DeepSpeed ZeRO-3, weights back, Prometheus, report."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request
from pathlib import Path

import pytest

from configs import loader
from tests.e2e import job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def balanced(ledger: dict[str, int]) -> bool:
    """The ledger's identities."""
    received = ledger["received"] == ledger["unique"] + ledger["duplicate"] + ledger["rejected"]
    return received and ledger["unique"] == ledger["trained"] + ledger["dropped"] + ledger["queued"]


def test_group_strategy_with_the_reward_model_end_to_end(tmp_path: Path) -> None:
    run_dir = tmp_path / "e2e-group"
    validation = ("data.validation=quickstart:validation", "validation.every=15", "validation.groups_per_topic=1")
    process = job.start(run_dir, "learner.steps=30", *validation)
    try:
        seen = job.wait_until(lambda: (found := job.status(run_dir)).get("step") and found, 240, "the first learner step")
        scraped = [urllib.request.urlopen(url, timeout=5).read().decode() for url in seen["endpoints"]["metrics"]]  # noqa: S310
        output, _ = process.communicate(timeout=240)
    finally:
        job.end(process)
    assert process.returncode == 0, output

    assert seen["healthy"]
    assert {each["role"] for each in seen["processes"]} >= {"learner", "rollout", "reward", "weight_store", "fetcher"}
    assert all("rba_build_info" in text for text in scraped)
    assert any("rba_generated_tokens_total" in text for text in scraped)
    assert any("rba_learner_steps_total" in text for text in scraped)

    summary = job.summary(run_dir)
    assert summary["status"] == "completed"
    assert summary["engine"] == "vllm 0.32.0"
    assert summary["zero_stage"] == 3
    assert summary["learner_steps"] == 30
    assert summary["policy_version"] == {"lineage": 0, "step": 30}
    assert summary["pushes"] >= 15
    assert balanced(summary["ledger"])
    assert summary["ledger"]["trained"] == 30 * 4
    assert summary["policy_lag"]["max"] <= 6
    for label in ("before", "after"):
        assert all(summary["evaluation"][label][name] is not None for name in ("accuracy", "bleu", "consistency", "reward"))

    assert summary["best"]["step"] in (15, 30)
    assert (run_dir / "checkpoints" / f"step-{summary['best']['step']}").is_dir()

    page = (run_dir / "report.html").read_text()
    assert "<audio" in page
    assert "data:audio/" in page
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert {"step", "publish", "evaluation", "checkpoint"} <= {event["event"] for event in events}
    measured = [event for event in events if event["event"] == "evaluation"]
    assert [event["label"] for event in measured] == ["before", "validation 15", "validation 30", "after"]
    assert all(event["figures"]["unmeasured"] == 0 for event in measured)
    assert (run_dir / "config.yaml").exists()
    assert not job.leftovers("e2e-group")

    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    checkpoint = run_dir / "checkpoints" / "step-30"
    _model, loaded = Qwen2AudioForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    AutoProcessor.from_pretrained(checkpoint)


def test_single_strategy_needs_no_reward_server_and_bleu_scores_through_one(tmp_path: Path) -> None:
    single = tmp_path / "e2e-single"
    done = job.launch(single, "strategy=single")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = job.summary(single)
    assert summary["strategy"] == "single"
    assert summary["ledger"]["trained"] == 16
    assert balanced(summary["ledger"])
    assert not (single / "logs" / "reward-0.jsonl").exists()

    bleu = tmp_path / "e2e-bleu"
    done = job.launch(bleu, "rewards.scorer=bleu", "learner.ranks=2", "learner.cpu_threads=1")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = job.summary(bleu)
    assert balanced(summary["ledger"])
    assert 0 <= summary["evaluation"]["after"]["reward"] <= 1
    assert not job.leftovers("e2e-")


def test_a_killed_run_goes_on_elsewhere_and_sigterm_ends_it_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "e2e-killed"
    overrides = ("learner.steps=100000", "learner.checkpoint_every=4", "learner.keep_checkpoints=2", "evaluation.before=false")
    process = job.start(run_dir, *overrides)
    try:
        job.wait_until(lambda: job.status(run_dir).get("step", 0) >= 5, 240, "a step after a checkpoint")
        process.kill()
        process.wait(60)
    finally:
        job.end(process)
    job.wait_until(lambda: not job.leftovers("e2e-killed"), 60, "the guard's cleaning up")
    assert job.status(run_dir)["state"] == "vanished"
    before = max(int(path.name.removeprefix("step-")) for path in (run_dir / "checkpoints").glob("step-*"))
    taken = max(event["step"] for event in job.events(run_dir) if event["event"] == "step")

    config = loader.load(run_dir / "config.yaml")
    shutil.copytree(config.model.path, tmp_path / "there" / "model")
    (tmp_path / "there" / "data").symlink_to(Path(config.data.train).parent)
    moved = [f"data.train={tmp_path}/there/data/{Path(config.data.train).name}", f"model.path={tmp_path}/there/model"]
    machine = job.another_machine(monkeypatch)
    process = job.start(run_dir, *overrides, *moved, resume=True, machine=machine)
    try:
        job.wait_until(lambda: job.status(run_dir).get("step", 0) >= taken + 3, 240, "steps of its own")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    finally:
        job.end(process)
    assert process.returncode == 0, output
    assert f"going on from {run_dir}/checkpoints/step-{before}" in output.replace("\n", "")
    summary = job.summary(run_dir)
    steps = summary["learner_steps"]
    assert summary["status"] == "stopped"
    assert summary["policy_version"] == {"lineage": 1, "step": steps}
    assert balanced(summary["ledger"])
    assert summary["ledger"]["trained"] == steps * 4
    assert (run_dir / "checkpoints" / f"step-{steps}" / "model.safetensors").exists()
    resumed = next(event for event in job.events(run_dir) if event["event"] == "resume")
    assert taken - before <= resumed["steps_again"] <= taken - before + 1  # one may have been taken and not told of
    assert resumed["results_kept"] >= 4 * resumed["steps_again"]
    replayed = job.rba("replay", str(run_dir), timeout_s=200)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert "all have the same bytes" in replayed.stdout
    assert not job.leftovers("e2e-killed")
    refused = job.rba(*job.launch_arguments(run_dir, *overrides, "loss.beta=0.3"), "--resume")
    assert refused.returncode == 2
    assert "loss.beta" in refused.stderr
