from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from configs import loader
from configs.schema import RunConfig
from learner.checkpoint import DIGESTS, LEARNER, STATE, digest
from ops import rundir
from ops import status as statuses
from ops.control import ControlServer
from ops.resume import find_origin
from ops.rundir import RunDir
from protocol.errors import RbaError, UserError

URL = "learner.checkpoint_copies=memory://copies"
DIGEST = {"train": "sha256:1", "test": "sha256:2"}
FOUND = {"data_digests": DIGEST, "model_digests": {"model.path": "sha256:3", "rewards.model": "sha256:4"}}


def config(*overrides: str) -> RunConfig:
    return loader.load("quickstart", overrides)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = rundir.create(config(), tmp_path / "run")
    rundir.write_config(made, config(), {**FOUND, "lineage": 3})
    return made


def checkpoint(run: RunDir, step: int) -> Path:
    folder = run.path / "checkpoints" / f"step-{step}"
    (folder / STATE).mkdir(parents=True)
    (folder / STATE / LEARNER).write_text("{}")
    (folder / DIGESTS).write_text(json.dumps({f"{STATE}/{LEARNER}": digest(folder / STATE / LEARNER)}))
    return folder


def test_a_run_goes_on_from_its_last_whole_checkpoint_under_a_new_lineage(run: RunDir) -> None:
    whole, torn = checkpoint(run, 20), checkpoint(run, 100)
    (torn / STATE / LEARNER).write_text("{")
    found = find_origin(run, config(), FOUND)
    assert (found.lineage, found.checkpoint) == (4, whole)
    assert found.torn == {torn: [f"{STATE}/{LEARNER}"]}


def test_without_a_checkpoint_it_starts_again_under_a_new_lineage(run: RunDir) -> None:
    assert find_origin(run, config(), FOUND)[:2] == (4, None)


@pytest.mark.parametrize("override", ["loss.beta=0.2", "strategy=single", "learner.learning_rate=1e-5", "rollout.sampling.temperature=0.5"])
def test_what_decides_the_result_has_to_stay(run: RunDir, override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        find_origin(run, config(override), FOUND)


@pytest.mark.parametrize(
    "override",
    ["learner.steps=500", "learner.ranks=2", "rollout.actors=3", "rewards.servers=2", "run.name=other", URL],
)
def test_what_decides_how_fast_it_goes_may_change(run: RunDir, override: str) -> None:
    assert find_origin(run, config(override), FOUND).lineage == 4


def test_another_data_set_is_refused(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"data\.test"):
        find_origin(run, config(), {**FOUND, "data_digests": {**DIGEST, "test": "sha256:3"}})


MOVED = {"model.path": "/b/model", "rewards.model": "/b/rewards", "data.train": "/b/train.jsonl", "data.test": "/b/test.jsonl"}


def test_the_same_data_and_checkpoints_may_lie_elsewhere(run: RunDir) -> None:
    there = config(*(f"{key}={path}" for key, path in MOVED.items()))
    assert find_origin(run, there, FOUND).lineage == 4
    for key in ("model.path", "rewards.model"):
        models = {**FOUND["model_digests"], key: "sha256:9"}
        with pytest.raises(UserError, match=f"{key} was"):
            find_origin(run, there, {**FOUND, "model_digests": models})
    with pytest.raises(UserError, match=r"data\.test was"):
        find_origin(run, config("data.test=null"), {**FOUND, "data_digests": {"train": "sha256:1"}})


def test_a_mixture_may_lie_elsewhere_and_keeps_its_weights_and_its_order(tmp_path: Path) -> None:
    made = rundir.create(config(), tmp_path / "mixed")
    found = {"data_digests": {**DIGEST, "mix 1": "sha256:5", "mix 2": "sha256:6"}}
    here, there = ({"x.jsonl": 0.5, "y.jsonl": 2.0}, {"/b/x.jsonl": 0.5, "/b/y.jsonl": 2.0})
    rundir.write_config(made, config(f"data.mix={json.dumps(here)}"), found)
    assert find_origin(made, config(f"data.mix={json.dumps(there)}"), found).lineage == 1
    turned = {"/b/y.jsonl": 2.0, "/b/x.jsonl": 0.5}
    with pytest.raises(UserError, match=r"data\.mix was"):
        find_origin(made, config(f"data.mix={json.dumps(turned)}"), found)


def test_the_checkpoints_of_a_combination_may_lie_elsewhere(tmp_path: Path) -> None:
    key = "rewards.combination.taste.model"
    combined = ["rewards.scorer=combination", "rewards.combination.taste.scorer=seqcls", "rewards.combination.words.scorer=bleu"]
    made = rundir.create(config(), tmp_path / "combined")
    found = {**FOUND, "model_digests": {key: "sha256:5"}}
    rundir.write_config(made, config(*combined, f"{key}=/a/taste"), found)
    there = config(*combined, f"{key}=/b/taste")
    assert find_origin(made, there, found).lineage == 1
    with pytest.raises(UserError, match=rf"{key} was"):
        find_origin(made, there, {**found, "model_digests": {key: "sha256:6"}})


def test_a_run_that_is_under_way_on_another_machine_is_left_alone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlServer(status=dict, stop=print, scale=print, metrics=bytes, beat=lambda: os.utime(run.control))
    rundir.write_private_json(run.control, {"url": server.url, "token": server.token, "host": "machine-a"})
    try:
        with pytest.raises(UserError, match="on machine-a: the run is under way on another machine"):
            find_origin(run, config(), FOUND)
        with pytest.raises(RbaError, match="on machine-a, and answers there alone"):
            statuses.ask(run, "GET", "/v1/status")
    finally:
        server.close()
    monkeypatch.setattr(statuses, "BEAT_S", 0)
    assert find_origin(run, config(), FOUND).lineage == 4, "that machine is lost"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to go on with"):
        rundir.reopen(config(), tmp_path)
