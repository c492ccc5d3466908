"""The learner from start to end against a scripted actor: every real part but the generation."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq
from safetensors.torch import load_file
from transformers import Qwen2AudioForConditionalGeneration

from learner.checkpoint import verify
from learner.main import Learner
from policies import qwen2_audio
from protocol import sockets
from protocol.errors import UserError
from protocol.keyring import Keyring
from protocol.messages import GroupResult, LeasedGroup, PolicyVersion, Purpose
from protocol.weights.files import directory_of, open_version, versions
from tests.learner.scripted import ScriptedActor, answer, answer_sft, answer_single, run_config


def balanced(ledger: dict[str, Any]) -> bool:
    return bool(
        ledger["leased"] == ledger["settled"] + ledger["outstanding"] + ledger["expired"]
        and ledger["received"] == ledger["unique"] + ledger["duplicate"] + ledger["rejected"]
        and ledger["unique"] == ledger["trained"] + ledger["dropped"] + ledger["queued"]
    )


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_of_group_strategy(checkpoint: Path, tmp_path: Path) -> None:
    config = run_config(checkpoint, tmp_path)
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")
    described = learner.describe()
    assert (described["role"], described["id"]) == ("learner", "learner-0")
    assert learner.status()["state"] == "starting"
    assert re.search(r"^rba_disk_free_bytes [1-9]", httpx.get(described["metrics_url"], trust_env=False).text, re.MULTILINE), (
        "from the start"
    )
    scraped: list[str] = []
    seen: list[dict[str, Any]] = []

    def watched(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
        seen.append(learner.status())
        if leased.purpose is Purpose.EVALUATE:  # for these the learner waits
            scraped.append(httpx.get(described["metrics_url"], trust_env=False).text)
        return answer(leased, version)

    with ScriptedActor(learner, watched) as actor:
        closing = learner.run()

    assert closing["status"] == "completed"
    assert closing["learner_steps"] == 4
    assert closing["policy_version"] == {"lineage": 0, "step": 4}
    assert closing["pushes"] == 3
    assert actor.ended == "completed"
    assert actor.unacknowledged <= 4 < len(actor.leases)  # at most what it held when the learner left
    assert actor.versions[-1] == PolicyVersion(0, 4)
    # the ledger, at the end and whenever anybody asked
    ledger = closing["ledger"]
    assert balanced(ledger)
    assert all(balanced(status["ledger"]) for status in seen)
    assert 0 < seen[-1]["pairs"]["trained"] <= closing["pairs"]["trained"]
    assert ledger["trained"] == 12
    assert ledger["queued"] == 0
    assert ledger["dropped_reasons"]["evaluated"] == 8
    assert ledger["dropped_reasons"]["filtered"] >= 1
    assert closing["pairs"]["trained"] <= 12
    assert ledger["pairs_received"] == closing["pairs"]["unique"] > 0
    assert re.search(r"^rba_pairs_received_total [1-9]", scraped[-1], re.MULTILINE)
    for what in ("results", "weight", "journal"):
        assert re.search(rf"^rba_{what}_last_success_timestamp_seconds [1-9]", scraped[-1], re.MULTILINE)
    assert re.search(r"^rba_disk_free_bytes [1-9]", scraped[-1], re.MULTILINE)
    assert seen[-1]["work_seconds"]["step"] > 0
    assert seen[-1]["work_seconds"]["publish"] > 0
    # the bound on staleness, and what was measured at which version
    assert 0 <= closing["policy_lag"]["mean"] <= closing["policy_lag"]["max"] <= 2
    assert 0.0 <= closing["idle"]["learner"] <= 1.0
    assert closing["evaluation"]["before"]["accuracy"] == 0.0
    assert closing["evaluation"]["after"]["accuracy"] == pytest.approx(0.4)
    assert closing["evaluation"]["after"]["bleu"] == pytest.approx(100.0)
    assert {leased.group.group_id for leased in actor.leases if leased.purpose is Purpose.EVALUATE} == {
        f"g1-{number}" for number in range(4)
    }
    assert sorted({leased.ordinal for leased in actor.leases}) == list(range(len(actor.leases)))
    # what it leaves behind
    steps = events(tmp_path / "run", "step")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(line["loss"]["total"] > 0 and line["grad_norm"] > 0 for line in steps)
    assert [line["policy_version"] for line in events(tmp_path / "run", "publish")] == ["0.0", "0.2", "0.4"]
    assert set(events(tmp_path / "run", "evaluation")[1]["topics"]) == {"sums", "capitals"}
    sample = json.loads((tmp_path / "run" / "samples" / "step-1.jsonl").read_text().splitlines()[0])
    assert sample["answers"][0]["audio"].startswith("xxh128:")
    assert {entry["role"] for entry in sample["answers"]} <= {"chosen", "rejected", ""}
    assert 'rba_group_outcomes_total{outcome="pairs"}' in scraped[-1]
    assert "rba_learner_steps_total 4.0" in scraped[-1]
    check_weights(checkpoint, tmp_path, step=4)


def check_weights(checkpoint: Path, folder: Path, step: int) -> None:
    """The published version and the checkpoint hold the same bytes under the same names, and both moved away from the start."""
    saved = folder / "run" / "checkpoints" / f"step-{step}"
    assert verify(saved) == []
    assert qwen2_audio.checkpoint_names(saved) == qwen2_audio.checkpoint_names(checkpoint)
    tensors, start = load_file(saved / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert any(not tensors[name].equal(start[name]) for name in start)
    assert versions(folder / "weights")[-1] == PolicyVersion(0, step)
    assert len(versions(folder / "weights")) <= 2
    with open_version(directory_of(folder / "weights", PolicyVersion(0, step))) as opened:
        opened.verify()
        assert {entry.name for entry in opened.manifest.tensors} == set(tensors)
        for entry in opened.manifest.tensors:
            assert entry.dtype == "F32"
            assert entry.shape == list(tensors[entry.name].shape)
            assert opened.tensor_bytes(entry).tobytes() == tensors[entry.name].numpy().tobytes()
    _, info = Qwen2AudioForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize(("strategy", "script"), [("single", answer_single), ("sft", answer_sft)])
def test_the_other_strategies(checkpoint: Path, tmp_path: Path, strategy: str, script: Any) -> None:
    config = run_config(
        checkpoint,
        tmp_path,
        strategy=strategy,  # type: ignore[arg-type]
        learner={"steps": 2, "publish_every": 1, "checkpoint_every": 1},
        evaluation={"groups": 0},
        loss={"reference_model": "frozen"},
    )
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")
    with ScriptedActor(learner, script):
        closing = learner.run()
    assert closing["status"] == "completed"
    assert closing["evaluation"] == {}
    assert closing["ledger"]["trained"] == 6
    assert closing["pairs"]["trained"] == (18 if strategy == "single" else 0)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-1", "step-2"]
    first = events(tmp_path / "run", "step")[0]
    if strategy == "single":
        assert first["loss"]["preference"] == pytest.approx(0.693147, abs=1e-4)
    else:
        assert first["loss"]["preference"] is None
        assert first["loss"]["total"] == pytest.approx(first["loss"]["cross_entropy"])
    check_weights(checkpoint, tmp_path, step=2)


@pytest.mark.parametrize("at", ["evaluation", "training"])
def test_stop_leaves_a_checkpoint_that_loads(checkpoint: Path, tmp_path: Path, at: str) -> None:
    config = run_config(checkpoint, tmp_path, learner={"steps": 1000, "publish_every": 1})
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")

    def until(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
        if (leased.purpose is Purpose.EVALUATE) if at == "evaluation" else version.step >= 2:
            learner.stop("the user asked")
        return answer(leased, version)

    with ScriptedActor(learner, until) as actor:
        closing = learner.run()
    assert closing["status"] == "stopped"
    assert actor.ended == "the user asked"
    assert balanced(closing["ledger"])
    assert "after" not in closing["evaluation"]
    step = closing["policy_version"]["step"]
    assert step == 0 if at == "evaluation" else 2 <= step < 1000
    saved = tmp_path / "run" / "checkpoints" / f"step-{step}"
    assert verify(saved) == []
    qwen2_audio.load_model(saved, "float32")


def test_audio_that_the_learner_cannot_read_costs_its_group_alone(checkpoint: Path, tmp_path: Path) -> None:
    config = run_config(checkpoint, tmp_path, learner={"steps": 3, "publish_every": 1}, evaluation={"groups": 0}, data={"shuffle": False})
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    shutil.copyfile(tmp_path / "utterance.flac", tmp_path / first["utterances"][1]["path"])  # another clip under its name
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")
    with ScriptedActor(learner):
        closing = learner.run()
    assert closing["status"] == "completed"
    assert closing["ledger"]["trained"] == 9
    logged = [json.loads(line) for line in (tmp_path / "run" / "logs" / "learner-0.jsonl").read_text().splitlines()]
    (refused,) = [line for line in logged if line.get("ordinal") == 0]
    assert refused["why"].startswith("filtered")
    assert first["utterances"][1]["audio"] in refused["why"]


def test_a_run_with_keys_takes_results_of_allowed_actors_alone(checkpoint: Path, tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.complete()
    config = run_config(
        checkpoint, tmp_path, learner={"steps": 2, "publish_every": 1}, evaluation={"groups": 0}, network={"keys": str(keys.folder)}
    )
    learner = Learner(config, tmp_path / "run", tmp_path / "weights")
    described = learner.describe()
    context: sockets.Context = zmq.Context()
    plain = sockets.dealer(context, described["endpoints"]["pairs"], 1 << 20, b"plain")
    seen: list[str] = []

    def watched(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
        seen.append(httpx.get(described["metrics_url"], trust_env=False).text)
        return answer(leased, version)

    with ScriptedActor(learner, watched):
        closing = learner.run()
    assert closing["status"] == "completed"
    assert closing["ledger"]["trained"] == 6
    assert not plain.poll(0, zmq.POLLOUT)
    context.destroy(linger=0)
    assert re.search(r'^rba_authentication_failures_total\{reason="(no_keys|broken_off)",socket="pairs"\} [1-9]', seen[-1], re.MULTILINE)
    left = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    for name in ("server", "actor"):
        assert keys.pair(name).secret not in left


def test_keys_that_others_may_read_are_the_users_mistake(checkpoint: Path, tmp_path: Path) -> None:
    Keyring(tmp_path / "keys").complete()
    (tmp_path / "keys" / "server.key_secret").chmod(0o640)
    with pytest.raises(UserError, match="others may read"):
        Learner(run_config(checkpoint, tmp_path, network={"keys": str(tmp_path / "keys")}), tmp_path / "run", tmp_path / "weights")


def test_mistakes_are_told_at_once(checkpoint: Path, tmp_path: Path) -> None:
    config = run_config(checkpoint, tmp_path)
    wrong_model = config.model_copy(update={"model": config.model.model_copy(update={"path": str(tmp_path)})})
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Learner(wrong_model, tmp_path / "run", tmp_path / "weights")
