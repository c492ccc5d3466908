from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs import loader
from configs.schema import RunConfig
from learner.checkpoint import DIGESTS, LEARNER, STATE, digest
from ops import rundir
from ops.resume import find_origin
from ops.rundir import RunDir
from protocol.errors import UserError

URL = "learner.checkpoint_copies=memory://copies"
DIGEST = {"train": "sha256:1", "test": "sha256:2"}


def config(*overrides: str) -> RunConfig:
    return loader.load("quickstart", overrides)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = rundir.create(config(), tmp_path / "run")
    rundir.write_config(made, config(), {"data_digests": DIGEST, "lineage": 3})
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
    found = find_origin(run, config(), DIGEST)
    assert (found.lineage, found.checkpoint) == (4, whole)
    assert found.torn == {torn: [f"{STATE}/{LEARNER}"]}


def test_without_a_checkpoint_it_starts_again_under_a_new_lineage(run: RunDir) -> None:
    assert find_origin(run, config(), DIGEST)[:2] == (4, None)


@pytest.mark.parametrize("override", ["loss.beta=0.2", "strategy=single", "learner.learning_rate=1e-5", "rollout.sampling.temperature=0.5"])
def test_what_decides_the_result_has_to_stay(run: RunDir, override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        find_origin(run, config(override), DIGEST)


@pytest.mark.parametrize(
    "override",
    ["learner.steps=500", "learner.ranks=2", "rollout.actors=3", "rewards.servers=2", "run.name=other", URL],
)
def test_what_decides_how_fast_it_goes_may_change(run: RunDir, override: str) -> None:
    assert find_origin(run, config(override), DIGEST).lineage == 4


def test_another_data_set_is_refused(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"data\.test"):
        find_origin(run, config(), {**DIGEST, "test": "sha256:3"})


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to go on with"):
        rundir.reopen(config(), tmp_path)
