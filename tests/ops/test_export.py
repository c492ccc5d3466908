from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from configs import loader
from learner.checkpoint import CHECKPOINTS, write_checkpoint
from learner.copies import Copies
from learner.events import Events
from learner.gauges import Gauges
from ops import rundir
from ops.export import export
from ops.resume import find_origin
from ops.rundir import RunDir
from policies.adapter import adapter
from protocol.errors import UserError
from protocol.metrics import Metrics
from tests.protocol.stores import fetch
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "speechlm")


@pytest.fixture
def run(source: Path, tmp_path: Path) -> RunDir:
    tensors = load_file(source / "model.safetensors")

    def state(folder: Path) -> None:
        (folder / "state").mkdir()
        (folder / "state" / "learner.json").write_text("{}")

    for step in (10, 20):
        write_checkpoint(tmp_path / "run", step, tensors.items(), adapter("qwen2_audio"), source, "float32", state)
    return RunDir(tmp_path / "run", "run-1")


def test_what_is_exported_is_a_plain_checkpoint(run: RunDir, source: Path, tmp_path: Path) -> None:
    notes = export(run, None, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in source.iterdir() if path.is_file()}
    assert not list(tmp_path.glob(".*"))
    model = adapter("qwen2_audio").load_model(tmp_path / "out", "float32")
    wanted = load_file(source / "model.safetensors")
    assert all(parameter.detach().equal(wanted[name]) for name, parameter in _released(model))
    assert "4 s" in notes[0]


def test_a_window_of_30_s_needs_no_note(run: RunDir, tmp_path: Path) -> None:
    export(run, 10, tmp_path / "out")
    file = tmp_path / "out" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chunk_length": 30}))
    from ops.export import notes

    assert notes(tmp_path / "out") == []


def test_mistakes_are_explained(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are steps 10, 20"):
        export(run, 15, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        export(run, 10, tmp_path / "full")
    (run.path / "checkpoints" / "step-10" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged: config\.json"):
        export(run, 10, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_that_is_fetched_back_is_exported_and_gone_on_from(run: RunDir, source: Path, tmp_path: Path) -> None:
    config = loader.load("quickstart")
    rundir.write_config(run, config, {"lineage": 1})
    copies = Copies(f"file://{tmp_path}/copies", run.path, Events(run.path), Gauges(Metrics("learner")), known=20)
    copies.close(lambda: True)
    back = RunDir(tmp_path / "back", "")
    for name, place in (("config.yaml", back.config), ("step-20", back.path / CHECKPOINTS / "step-20")):
        fetch(f"file://{tmp_path}/copies/run/{name}", place)
    assert find_origin(back, config, {})[:3] == (2, back.path / CHECKPOINTS / "step-20", {})
    export(back, None, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in source.iterdir() if path.is_file()}


def _released(model):  # type: ignore[no-untyped-def]
    names = adapter("qwen2_audio").released_names(model)
    return [(names[name], parameter) for name, parameter in model.named_parameters()]
