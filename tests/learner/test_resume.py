"""A run that goes on from a checkpoint ends where it would have ended, to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from configs.schema import RunConfig
from learner.checkpoint import DIGESTS, newest, verify
from learner.life import Life
from learner.main import Learner
from protocol.errors import UserError
from protocol.messages import PolicyVersion, Purpose
from tests.learner.scripted import ScriptedActor, run_config, write_dataset

STEPS, HALF = 6, 3


def config_of(checkpoint: Path, folder: Path, **learner: Any) -> RunConfig:
    """Nothing gets stale: which results do depends on the moment at which they come."""
    section = {"steps": STEPS, "checkpoint_every": HALF, "lr_scheduler": "cosine", "max_policy_lag": 10, **learner}
    more = write_dataset(folder / "more" / "train.jsonl", 4, seed=5)
    return run_config(checkpoint, folder, learner=section, data={"mix": {str(more): 0.5}})


def carry_out(config: RunConfig, run_dir: Path, checkpoint: Path | None = None) -> tuple[dict[str, Any], ScriptedActor]:
    learner = Learner(config, run_dir, run_dir / "weights", lineage=int(checkpoint is not None), checkpoint=checkpoint)
    with ScriptedActor(learner) as actor:
        return learner.run(), actor


def interrupted(run_dir: Path, to: Path) -> Path:
    """A copy of the run as a crash after the checkpoint half-way would have left it."""
    (to / "checkpoints").mkdir(parents=True)
    shutil.copytree(run_dir / "checkpoints" / f"step-{HALF}", to / "checkpoints" / f"step-{HALF}")
    return to / "checkpoints" / f"step-{HALF}"


def tensors(run_dir: Path, step: int) -> dict[str, Any]:
    folder = run_dir / "checkpoints" / f"step-{step}"
    return load_file(folder / "model.safetensors") | load_file(folder / "state" / "optimizer-00000.safetensors")


@pytest.mark.parametrize(("zero_stage", "precision"), [(3, "float32"), (3, "bfloat16"), (1, "bfloat16"), (0, "float32"), (0, "bfloat16")])
def test_a_resumed_run_ends_at_the_same_bits(checkpoint: Path, tmp_path: Path, zero_stage: int, precision: str) -> None:
    config = config_of(checkpoint, tmp_path, zero_stage=zero_stage, precision=precision)
    whole, first_actor = carry_out(config, tmp_path / "whole")
    resumed, second_actor = carry_out(config, tmp_path / "again", interrupted(tmp_path / "whole", tmp_path / "again"))

    assert whole["policy_version"] == {"lineage": 0, "step": STEPS}
    assert resumed["policy_version"] == {"lineage": 1, "step": STEPS}
    one, other = tensors(tmp_path / "whole", STEPS), tensors(tmp_path / "again", STEPS)
    assert one.keys() == other.keys()
    assert len(one) > 100
    assert [name for name in one if not one[name].equal(other[name])] == []
    # what had not been trained is leased again under its own ordinal, with a higher epoch and the same seed
    trained = {leased.ordinal for leased in second_actor.leases if leased.purpose is Purpose.TRAIN}
    before = {leased.ordinal: leased for leased in first_actor.leases if leased.purpose is Purpose.TRAIN}
    again = trained & before.keys()
    assert again
    for leased in second_actor.leases:
        if leased.ordinal in again and leased.purpose is Purpose.TRAIN:
            assert leased.lease_epoch > before[leased.ordinal].lease_epoch
            assert (leased.seed, leased.group.group_id) == (before[leased.ordinal].seed, before[leased.ordinal].group.group_id)
    assert max(trained) == max(before)
    sources = {leased.group.group_id.rpartition("-")[0] for leased in second_actor.leases if leased.purpose is Purpose.TRAIN}
    assert sources == {"g0", "mix-1/g5"}
    # figures run on
    assert resumed["learner_steps"] == whole["learner_steps"] == STEPS
    assert resumed["ledger"]["trained"] == whole["ledger"]["trained"]
    assert resumed["evaluation"]["before"] == whole["evaluation"]["before"]
    events = [json.loads(line) for line in (tmp_path / "again" / "events.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "resume"
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(HALF + 1, STEPS + 1))


def test_a_life_survives_its_file_and_the_next_one_begins_behind_it(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path)
    carry_out(config, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / f"step-{HALF}"
    life = Life.read(folder, lineage=2)
    assert (life.step, life.updates, life.trained) == (HALF, HALF, 3 * HALF)
    assert life.version == PolicyVersion(2, HALF)
    assert life.ledger().faults() == []
    settled = life.settled()
    assert all((ordinal in settled) != (ordinal in life.frontier.untrained) for ordinal in range(life.frontier.ordinal))
    assert life.frontier.ordinal not in settled
    (folder / "state" / "learner.json").write_text('{"step": "three"}')
    with pytest.raises(UserError, match="cannot be continued"):
        Life.read(folder, lineage=1)


def test_the_newest_whole_checkpoint_is_found(checkpoint: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert newest(run_dir) == (None, {})
    carry_out(config_of(checkpoint, tmp_path), run_dir)
    half, last = (run_dir / "checkpoints" / f"step-{step}" for step in (HALF, STEPS))
    assert newest(run_dir) == (last, {})
    optimizer = last / "state" / "optimizer-00000.safetensors"
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    assert verify(last) == ["state/optimizer-00000.safetensors"]
    assert newest(run_dir) == (half, {last: ["state/optimizer-00000.safetensors"]})
    (half / DIGESTS).unlink()
    assert newest(run_dir)[0] is None
