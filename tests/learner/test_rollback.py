"""Back to good weights: the engine's tensors bit for bit, and whole runs with batches that no loss survives."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file
from torch import Tensor

from configs.schema import RunConfig
from learner.checkpoint import verify
from learner.life import Life
from learner.rollback import last_good
from protocol.dataset import DataSet
from protocol.errors import RbaError
from protocol.ledger import IDENTITIES
from protocol.messages import GroupResult, LeasedGroup, PolicyVersion, Purpose
from tests.learner.rewinding import CASES
from tests.learner.scripted import DeafLearner, ScriptedActor, answer_sft, answer_single, run_config, write_dataset


def in_processes(module: str, world: int, arguments: list[str]) -> list[tuple[int, str]]:
    """Exit status and output of ``python -m MODULE ARGUMENTS RANK WORLD MASTER`` for every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(rank), str(world), master],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    printed = [process.communicate(timeout=250)[0].decode() for process in running]
    return [(process.returncode, text) for process, text in zip(running, printed, strict=True)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def moments(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what an engine held at each moment (see `tests.learner.rewinding`)."""
    out = tmp_path_factory.mktemp("moments")
    for status, printed in in_processes("tests.learner.rewinding", request.param, [str(out), str(checkpoint)]):
        assert status == 0, printed[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_running_engine_goes_back_to_the_same_bits(moments: Path, case: str) -> None:
    def tensors(moment: str) -> dict[str, Tensor]:
        return load_file(moments / f"{case}-{moment}.safetensors")

    def differing(one: str, other: str) -> list[str]:
        ours, theirs = tensors(one), tensors(other)
        assert ours.keys() == theirs.keys()
        return [name for name in ours if not ours[name].equal(theirs[name])]

    assert {name.partition("/")[0] for name in tensors("second")} == {"model", "weights", "exp_avg", "exp_avg_sq"}
    changed = differing("second", "later")
    assert {name.partition("/")[0] for name in changed} == {"model", "weights", "exp_avg", "exp_avg_sq"}
    assert differing("second", "second-again") == []
    assert differing("fifth", "fifth-fresh") == []
    assert len(differing("fifth", "second")) > 40
    assert differing("start", "start-again") == []
    assert differing("first", "first-again") == []


# --- whole runs ---------------------------------------------------------------------------------------------

GROUPS, STEPS = 16, 14
POISON = ("g0-4", "g0-7")
"""Of the third and the fourth batch of two."""
SET_ASIDE = ["g0-4", "g0-5", "g0-6", "g0-7"]


def config_of(checkpoint: Path, folder: Path, **sections: Any) -> RunConfig:
    """Batches of two, in the order of the manifest; two skipped steps lead back."""
    learner = {"steps": STEPS, "batch_groups": 2, "publish_every": 1, "checkpoint_every": 1, "nonfinite_steps": 2}
    train = write_dataset(folder / "sixteen" / "train.jsonl", GROUPS)
    return run_config(
        checkpoint,
        folder,
        strategy=sections.get("strategy", "single"),
        learner={**learner, **sections.get("learner", {})},
        data={"train": str(train), "shuffle": False},
        evaluation={"groups": 0},
    )


def clips_of(config: RunConfig, groups: tuple[str, ...] = POISON) -> set[str]:
    data = DataSet.open(Path(config.data.train))
    return {utterance.audio for group in data.groups if group.group_id in groups for utterance in group.utterances if utterance.audio}


def tensors_of(run_dir: Path, step: int) -> dict[str, Tensor]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return load_file(folder / "model.safetensors") | load_file(folder / "state" / "optimizer-00000.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def balanced(ledger: dict[str, Any]) -> bool:
    return all(ledger[whole] == sum(ledger[part] for part in parts) for whole, parts in IDENTITIES.items())


def check_rollback(folder: Path, closing: dict[str, Any]) -> None:
    """Steps 3 and 4 were skipped, and the weights of step 1 put back: those of step 2 are the ones that two batches failed on."""
    run_dir = folder / "run"
    assert closing["status"] == "completed"
    assert (closing["learner_steps"], closing["nonfinite_steps"], closing["rollbacks"]) == (STEPS, 2, 1)
    assert closing["policy_version"] == {"lineage": 0, "step": STEPS}
    assert [line["applied"] for line in events(run_dir, "step")] == [True, True, False, False, *[True] * (STEPS - 4)]
    (event,) = events(run_dir, "rollback")
    assert (event["step"], event["checkpoint"], event["number"]) == (4, "checkpoints/step-1", 1)
    assert event["groups"] == SET_ASIDE
    assert event["files"] == ["set-aside/step-3.jsonl", "set-aside/step-4.jsonl"]
    # weights and moments, bit for bit; training went on from them
    assert same(tensors_of(run_dir, 4), tensors_of(run_dir, 1))
    assert not same(tensors_of(run_dir, 2), tensors_of(run_dir, 1))
    assert not same(tensors_of(run_dir, 5), tensors_of(run_dir, 4))
    assert [Life.read(run_dir / "checkpoints" / f"step-{step}", 0).updates for step in (1, 2, 3, 4, 5)] == [1, 2, 2, 1, 2]
    # every group has its place in the books
    assert balanced(closing["ledger"])
    assert closing["ledger"]["trained"] == 2 * (STEPS - 2)
    assert closing["ledger"]["dropped_reasons"]["nonfinite"] == 4
    # what people can look at
    rows = [json.loads(line) for file in event["files"] for line in (run_dir / file).read_text().splitlines()]
    assert [row["group"] for row in rows] == SET_ASIDE
    assert all(each["audio"].startswith("xxh128:") for row in rows for each in row["utterances"] if each["speaker"] != "text")
    assert all(each["tokens"] > 0 and each["policy_versions"] and each["text"] for row in rows for each in row["answers"])
    assert rows[0]["answers"][2]["reward"] == 2.0


def test_batches_that_no_loss_survives_lead_back_and_do_not_come_again(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path)
    learner = DeafLearner(config, tmp_path / "run", tmp_path / "weights")
    learner.deaf_to = clips_of(config)
    scraped, seen, sampled = [""], [], {}

    def watched(leased: LeasedGroup, version: PolicyVersion) -> GroupResult:
        seen.append(learner.status())
        sampled[leased.ordinal] = version.step
        if leased.ordinal > 2 * GROUPS - 3:
            scraped.append(httpx.get(learner.describe()["metrics_url"], trust_env=False).text)
        return answer_single(leased, version)

    with ScriptedActor(learner, watched) as actor:
        closing = learner.run()
    check_rollback(tmp_path, closing)
    ledgers = [status["ledger"] for status in seen]
    assert all(balanced(ledger) for ledger in ledgers)
    assert (seen[0]["rollbacks"], seen[-1]["rollbacks"]) == (0, 1)
    assert "rba_rollbacks_total 1.0" in scraped[-1]
    assert "rba_nonfinite_steps_total 2.0" in scraped[-1]
    # the second epoch lacks what was set aside, and has all the rest
    leased = {entry.ordinal: entry.group.group_id for entry in actor.leases}
    assert max(leased) >= 2 * GROUPS
    second = [leased[ordinal] for ordinal in sorted(leased) if GROUPS <= ordinal < 2 * GROUPS]
    assert second == [f"g0-{number}" for number in range(GROUPS) if f"g0-{number}" not in SET_ASIDE]
    # the restored weights reached the actors as a version of their own
    assert actor.versions == sorted(set(actor.versions))
    assert PolicyVersion(0, 4) in actor.versions
    # what had been sampled by weights given up is stale
    late = [ordinal for ordinal, step in sampled.items() if ordinal >= 8 and step < 4]
    assert closing["ledger"]["dropped_reasons"].get("stale", 0) >= len(late)
    assert closing["policy_lag"]["max"] <= 2


@pytest.mark.parametrize("origin", [0, 1, 3, 4])
def test_a_replay_goes_back_as_the_run_did(checkpoint: Path, tmp_path: Path, origin: int) -> None:
    """Answers are sampled, so that some are stale after the rollback."""
    config = config_of(checkpoint, tmp_path)
    learner = DeafLearner(config, tmp_path / "run", tmp_path / "weights")
    learner.deaf_to = clips_of(config)
    with ScriptedActor(learner, answer_single):
        learner.run()
    assert events(tmp_path / "run", "rollback")
    at = tmp_path / "run" / "checkpoints" / f"step-{origin}" if origin else None
    again = DeafLearner(config, tmp_path / "replay", tmp_path / "replayed", lineage=1, checkpoint=at, replay_of=tmp_path / "run")
    again.deaf_to = learner.deaf_to
    digests = again.run()["digests"]
    published = {int(line["policy_version"].partition(".")[2]): line["digest"] for line in events(tmp_path / "run", "publish")}
    assert sorted(digests) == list(range(origin, STEPS + 1))
    assert {step: digest for step, digest in published.items() if step >= origin} == digests
    assert not (tmp_path / "replay" / "checkpoints").exists()


def test_two_ranks_go_back_together(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path, learner={"ranks": 2, "zero_stage": 1, "precision": "bfloat16"})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "deaf.json").write_text(json.dumps(sorted(clips_of(config))))
    for status, printed in in_processes("tests.learner.leading", 2, [str(tmp_path)]):
        assert status == 0, printed[-3000:]
    check_rollback(tmp_path, json.loads((tmp_path / "rank-0.json").read_text()))
    assert json.loads((tmp_path / "rank-1.json").read_text()) == {"status": "completed"}


def test_a_run_goes_on_after_a_rollback_as_if_uninterrupted(checkpoint: Path, tmp_path: Path) -> None:
    """Plain SFT, where nothing is sampled, so nothing gets stale."""
    config = config_of(checkpoint, tmp_path, strategy="sft")
    found = {}
    for name, origin in (("whole", None), ("after", 4), ("between", 3)):
        run_dir = tmp_path / name
        if origin is not None:
            shutil.copytree(tmp_path / "whole" / "checkpoints", run_dir / "checkpoints")
            for step in range(origin + 1, STEPS + 1):
                shutil.rmtree(run_dir / "checkpoints" / f"step-{step}")
        resumed = run_dir / "checkpoints" / f"step-{origin}" if origin is not None else None
        learner = DeafLearner(config, run_dir, run_dir / "weights", lineage=int(origin is not None), checkpoint=resumed)
        learner.deaf_to = clips_of(config)
        with ScriptedActor(learner, answer_sft) as actor:
            found[name] = learner.run()
        again = {leased.group.group_id for leased in actor.leases if leased.purpose is Purpose.TRAIN and leased.ordinal >= GROUPS}
        assert not again & set(SET_ASIDE)
    for closing in found.values():
        assert (closing["nonfinite_steps"], closing["rollbacks"], closing["learner_steps"]) == (2, 1, STEPS)
        assert balanced(closing["ledger"])
        assert closing["ledger"]["trained"] == found["whole"]["ledger"]["trained"]
    assert same(tensors_of(tmp_path / "after", STEPS), tensors_of(tmp_path / "whole", STEPS))
    # a life that begins between the two skipped steps still goes back after the second
    assert events(tmp_path / "between", "rollback")[0]["groups"] == SET_ASIDE
    assert same(tensors_of(tmp_path / "between", STEPS), tensors_of(tmp_path / "whole", STEPS))


def test_a_run_that_keeps_failing_goes_back_to_the_start_and_stops_at_last(checkpoint: Path, tmp_path: Path) -> None:
    """At this learning rate one step is the end of the weights. Only rollbacks write checkpoints here."""
    pace = {"learning_rate": 1e30, "nonfinite_rollbacks": 2, "checkpoint_every": 0, "publish_every": 2}
    config = config_of(checkpoint, tmp_path, strategy="sft", learner=pace)
    learner = DeafLearner(config, tmp_path / "run", tmp_path / "weights")
    with pytest.raises(RbaError) as raised, ScriptedActor(learner, answer_sft):
        learner.run()
    message = str(raised.value)
    assert message.startswith("steps 8, 9 had no finite loss or gradient, after 2 rollbacks")
    assert str(tmp_path / "run" / "set-aside") in message
    assert f"(model.path={tmp_path / 'run' / 'checkpoints' / 'step-6'}) with a lower learner.learning_rate" in message
    assert [line["applied"] for line in events(tmp_path / "run", "step")] == [True, False, False] * 3
    first, second = events(tmp_path / "run", "rollback")
    assert (first["checkpoint"], second["checkpoint"]) == (None, "checkpoints/step-3")
    start = load_file(checkpoint / "model.safetensors")
    for step in (3, 6):
        assert same(load_file(tmp_path / "run" / "checkpoints" / f"step-{step}" / "model.safetensors"), start)
    assert [line["policy_version"] for line in events(tmp_path / "run", "publish")] == ["0.0", "0.2", "0.3", "0.4", "0.6", "0.8"]
    assert sorted(path.name for path in (tmp_path / "run" / "set-aside").iterdir()) == [f"step-{step}.jsonl" for step in (2, 3, 5, 6, 8, 9)]
    assert balanced(learner.status()["ledger"])
    # the next life knows that it has no more rollbacks
    assert Life.read(tmp_path / "run" / "checkpoints" / "step-6", 1).recovery.rollbacks == 2


def test_the_last_good_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert last_good(run_dir, 5, began=0) is None
    config = config_of(checkpoint, tmp_path, strategy="sft", learner={"steps": 3})
    learner = DeafLearner(config, run_dir, tmp_path / "weights")
    with ScriptedActor(learner, answer_sft):
        learner.run()
    one, two, three = (run_dir / "checkpoints" / f"step-{step}" for step in (1, 2, 3))
    assert last_good(run_dir, 3, began=0) == two
    (two / "state" / "optimizer-00000.safetensors").write_bytes(b"")
    assert verify(two)
    assert last_good(run_dir, 3, began=0) == one
    assert last_good(run_dir, 1, began=0) is None
    assert last_good(run_dir, 1, began=3) == three


def test_a_run_whose_every_group_is_set_aside_stops(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path, strategy="sft", learner={"nonfinite_steps": 8, "batch_groups": 2})
    learner = DeafLearner(config, tmp_path / "run", tmp_path / "weights")
    learner.deaf_to = clips_of(config, tuple(f"g0-{number}" for number in range(0, GROUPS, 2)))
    with pytest.raises(RbaError, match="all 16 training groups are set aside"), ScriptedActor(learner, answer_sft):
        learner.run()
