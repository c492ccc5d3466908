"""From a teacher to an aligned model: a small data set made with every real part, and a few steps on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.dataset import DataSet
from quickstart.assets import provide
from quickstart.world import topics
from tests.e2e import job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SMALL = ("instructions.count=96", "block_groups=32")
RECIPE = Path(__file__).parents[2] / "configs" / "quickstart-synthesized.yaml"


def synthesize(directory: Path, *more: str) -> list[str]:
    options = [part for override in (f"directory={directory}", *SMALL) for part in ("-o", override)]
    return ["synthesize", "quickstart", *options, *more]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".jsonl", ".tar", ".json"} and "logs" not in path.parts
    }


def test_what_the_teacher_writes_is_spoken_and_trains_a_model(tmp_path: Path) -> None:
    made = job.rba(*synthesize(tmp_path, "--json"), timeout_s=240)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout.splitlines()[-1])
    folder = Path(told["folder"])
    data = DataSet.open(folder / "train.jsonl")
    assert told["stages"]["dataset"]["kept"] == len(data.groups) >= 20
    assert sum(told["stages"][stage]["kept"] == 0 for stage in told["stages"]) == 0
    assert {group.topic for group in data.groups} <= set(topics())
    assert all(len({each.speaker for each in group.utterances}) >= 2 for group in data.groups)
    held_out = {group.instruction for group in DataSet.open(provide("test", progress=False)).groups}
    assert not held_out & {group.instruction for group in data.groups}
    checked = job.rba("dataset", "check", str(folder), "--audio")
    assert checked.returncode == 0, checked.stdout

    before = content(folder)
    assert job.rba(*synthesize(tmp_path), timeout_s=120).returncode == 0
    assert content(folder) == before, "what is finished stays as it is"

    run_dir = tmp_path / "run"
    steps = ("learner.steps=2", "learner.batch_groups=4", "evaluation.groups=8", f"data.train={folder / 'train.jsonl'}")
    launched = job.rba("launch", str(RECIPE), "--run-dir", str(run_dir), *(part for step in steps for part in ("-o", step)), timeout_s=280)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["learner_steps"]) == ("completed", 2)
