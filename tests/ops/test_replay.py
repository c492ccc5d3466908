"""Which checkpoint a replay begins at, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.replay import Replayed, replay
from ops.rundir import RunDir
from protocol.errors import UserError
from tests.learner.test_resume import carry_out, config_of
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("replayed")
    config = config_of(tiny_checkpoint(folder / "speechlm"), folder)
    carry_out(config, folder / "run")
    (folder / "run" / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return RunDir(folder / "run", "run-1")


@pytest.mark.parametrize(("step", "first", "compared"), [(None, 0, [0, 2, 4, 6]), (3, 3, [4, 6])])
def test_every_published_version_is_compared(run: RunDir, step: int | None, first: int, compared: list[int]) -> None:
    found = replay(run, step)
    assert found == Replayed(first, 6, compared, [])
    assert "all have the same bytes" in found.told()


def test_another_version_is_told(run: RunDir) -> None:
    content = run.events.read_text()
    rows = [json.loads(line) for line in content.splitlines()]
    changed = [{**row, "digest": "xxh128:0"} if row["event"] == "publish" and row["policy_version"].endswith(".4") else row for row in rows]
    try:
        run.events.write_text("".join(json.dumps(row) + "\n" for row in changed))
        found = replay(run)
    finally:
        run.events.write_text(content)
    assert found.differing == [4]
    assert "of 4 published versions 1 differ, the first at step 4" in found.told()


@pytest.mark.parametrize("fault", ["no journal", "no checkpoint", "damaged checkpoint", "under way"])
def test_what_cannot_be_replayed_is_refused(run: RunDir, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half = run.path / "checkpoints" / "step-3" / "config.json"
    content = half.read_bytes()
    step, said = 3, fault
    match fault:
        case "no journal":
            (run.path / "journal").rename(run.path / "elsewhere")
        case "no checkpoint":
            step, said = 5, "no checkpoint of step 5"
        case "damaged checkpoint":
            half.write_bytes(b"{}")
            said = "damaged: config.json"
        case "under way":
            monkeypatch.setattr("ops.replay.is_alive", lambda _: True)
    try:
        with pytest.raises(UserError, match=said):
            replay(run, step)
    finally:
        half.write_bytes(content)
        if (run.path / "elsewhere").is_dir():
            (run.path / "elsewhere").rename(run.path / "journal")


def test_nothing_of_the_run_is_touched(run: RunDir) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    before = files()
    replay(run, 3)
    assert files() == before
