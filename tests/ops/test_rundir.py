from __future__ import annotations

from pathlib import Path

import pytest

from configs import loader
from configs.schema import RunConfig
from ops import launch, rundir
from protocol.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return loader.load("quickstart", [f"run.directory={tmp_path / 'runs'}", "run.name=demo"])


def test_a_taken_name_gets_a_number(config: RunConfig, tmp_path: Path) -> None:
    made = [rundir.create(config, None) for _ in range(3)]
    assert [run.path.name for run in made] == ["demo", "demo-2", "demo-3"]
    assert len({run.run_id for run in made}) == 3


def test_a_named_folder_must_be_new_or_empty(config: RunConfig, tmp_path: Path) -> None:
    run = rundir.create(config, tmp_path / "mine")
    assert rundir.create(config, tmp_path / "mine").path == run.path, "a folder with nothing but logs/ is as good as empty"
    (run.path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="not empty"):
        rundir.create(config, tmp_path / "mine")


def test_a_folder_that_cannot_be_made(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--run-dir"):
        rundir.create(config, tmp_path / "file" / "run")


def test_a_run_is_found_by_name_and_by_path(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rundir.create(config, None)
    rundir.write_config(run, config, {})
    monkeypatch.chdir(tmp_path)
    assert rundir.find("demo").path == run.path
    assert rundir.find(str(run.path)).path == run.path
    with pytest.raises(UserError, match="runs here: demo"):
        rundir.find("demmo")


def test_the_written_configuration_says_where_the_run_comes_from_and_loads_again(config: RunConfig, tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_text("{}\n")
    run = rundir.create(config, None)
    rundir.write_config(run, config, rundir.provenance("quickstart", ["run.name=demo"], {"train": str(manifest)}))
    assert loader.load(run.config) == config
    text = run.config.read_text()
    assert "ray: 2.60" in text
    assert rundir.file_digest(manifest) in text


def test_a_checkpoints_digest_is_of_what_it_holds_and_not_of_where_it_lies(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"a" * (3 << 20))
    (other / "README.md").write_text("copied")
    assert rundir.checkpoint_digest(one) == rundir.checkpoint_digest(other)
    (other / "model.safetensors").write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert rundir.checkpoint_digest(one) != rundir.checkpoint_digest(other)


def test_copies_of_another_run_are_not_replaced(config: RunConfig, tmp_path: Path) -> None:
    config.learner.checkpoint_copies = f"file://{tmp_path}/copies"
    launch.refuse_taken_name(rundir.create(config, None), config)
    (tmp_path / "copies" / "demo-2" / "step-1").mkdir(parents=True)
    second = rundir.create(config, None)
    with pytest.raises(UserError, match="copies of another run lie in its folder demo-2"):
        launch.refuse_taken_name(second, config)
    assert not second.path.exists()
