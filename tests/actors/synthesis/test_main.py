"""A synthesis as a whole: what may be changed between two calls, and what stays behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from actors.synthesis.filtering import Filtering
from actors.synthesis.main import STAGES, Synthesis
from actors.synthesis.splits import Splits
from actors.synthesis.teacher import shared
from protocol.dataset import DataSet
from protocol.dataset.inspection import inspect
from protocol.errors import UserError
from tests.actors.synthesis.scripted_run import Silent, config, scripted

BEFORE_SPLITS = STAGES[: STAGES.index("splits")]


@pytest.fixture(autouse=True)
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_teacher", scripted)


def instructions(count: int) -> dict[str, object]:
    return {"count": count, "source": "seeded_chat", "max_tokens": 9}


def test_a_mistake_in_a_later_stage_can_be_corrected(tmp_path: Path) -> None:
    few = instructions(8)
    with pytest.raises(UserError, match="no such bank of voices"):
        Synthesis(config(tmp_path, instructions=few, speech={"bank": "misspelt.jsonl"})).run(STAGES, Silent())
    Synthesis(config(tmp_path, instructions=few)).run(STAGES, Silent())
    assert DataSet.open(tmp_path / "scripted" / "train.jsonl").groups


def test_a_stage_alone_goes_on_with_what_those_before_it_were_made_with(tmp_path: Path) -> None:
    Synthesis(config(tmp_path)).run(BEFORE_SPLITS, Silent())
    for changed, said in (
        ({"seed": 1}, "seed=0"),
        ({"block_groups": 90}, "block_groups=8"),
        ({"responses": {}}, r"responses\.max_tokens=9"),
    ):
        with pytest.raises(UserError, match=f"was begun with {said}"):
            Synthesis(config(tmp_path, **changed)).run(["splits"], Silent())
    Synthesis(config(tmp_path)).run(["splits"], Silent())


def test_another_machine_goes_on_where_models_lie_elsewhere(tmp_path: Path) -> None:
    written, few = {"model": "org/teacher"}, instructions(8)
    for at, stages in (("/one/cache/org--teacher", BEFORE_SPLITS), ("/other/org--teacher", STAGES)):
        there = config(tmp_path, teacher={"model": at}, instructions=few)
        Synthesis(there, config(tmp_path, teacher=written, instructions=few)).run(stages, Silent())
    assert "org--teacher" not in (tmp_path / "scripted" / "dataset.json").read_text()


def test_more_instructions_can_be_asked_for_and_not_fewer_than_there_are(tmp_path: Path) -> None:
    Synthesis(config(tmp_path, instructions=instructions(20))).run(STAGES, Silent())
    folder, before = tmp_path / "scripted", {}
    for path in [*folder.rglob("*.jsonl"), *folder.rglob("*.tar")]:
        before[path] = path.read_bytes()
    with pytest.raises(UserError, match=r"instructions\.count: 20 instructions are there already, .*20 or more"):
        Synthesis(config(tmp_path, instructions=instructions(19))).run(STAGES, Silent())
    more = Synthesis(config(tmp_path, instructions=instructions(45)))
    assert more.progress()["tags"] == (3, 7)
    more.run(STAGES, Silent())
    assert [draft.id for draft in more.shelf("instructions").every()] == [f"{number:09d}" for number in range(45)]
    assert {path: path.read_bytes()[: len(content)] for path, content in before.items()} == before  # only manifests have grown
    kept = sum(draft.kept for draft in more.shelf("dataset").every())
    found = inspect(folder)
    assert not found.findings
    assert kept == sum(one.groups for one in found.manifests) > len(before[folder / "train.jsonl"].splitlines())
    Synthesis(config(tmp_path, instructions=instructions(45))).run(STAGES, Silent())


def test_a_stage_is_made_again_with_those_behind_it(tmp_path: Path) -> None:
    few = instructions(20)
    Synthesis(config(tmp_path, instructions=few)).run(STAGES, Silent())
    more = {"validation_per_topic": 0, "test_per_topic": 0}
    with pytest.raises(UserError, match="--redo splits"):
        Synthesis(config(tmp_path, instructions=few, splits=more)).run(STAGES, Silent())
    kept = [path for stage in BEFORE_SPLITS for path in sorted((tmp_path / "scripted" / "stages" / stage).glob("*.jsonl"))]
    before = [(path.read_bytes(), path.stat().st_ino) for path in kept]
    Synthesis(config(tmp_path, instructions=few, splits=more)).run(STAGES, Silent(), redo="splits")
    assert [(path.read_bytes(), path.stat().st_ino) for path in kept] == before
    assert not inspect(tmp_path / "scripted", hear=True).findings
    assert (tmp_path / "scripted" / "test.jsonl").read_bytes() == b""
    Synthesis(config(tmp_path, instructions=few, splits=more)).run(BEFORE_SPLITS, Silent(), redo="speech")
    assert sorted(path.name for path in (tmp_path / "scripted").glob("*.json*")) == []


def test_two_cannot_make_one_data_set(tmp_path: Path) -> None:
    class Second(Silent):
        told = ""

        def ends(self, stage: str) -> None:
            with pytest.raises(UserError, match=r"process \d+ on .* writes this data set") as caught:
                Synthesis(config(tmp_path)).run(STAGES, Silent())
            self.told = caught.value.where

    second = Second()
    Synthesis(config(tmp_path)).run(["instructions"], second)
    assert second.told == str(tmp_path / "scripted" / "stages")


class Remembering(Silent):
    """Looks which stages are still in memory."""

    def __init__(self) -> None:
        self.left: dict[str, list[type]] = {}

    def begins(self, stage: str, blocks: int, total: int) -> None:
        gc.collect()
        self.left[stage] = [type(each) for each in gc.get_objects() if type(each) in (Filtering, Splits)]


def test_what_a_stage_remembers_ends_with_it(tmp_path: Path) -> None:
    watch = Remembering()
    Synthesis(config(tmp_path, instructions=instructions(8))).run(STAGES, watch)
    assert [len(watch.left[stage]) for stage in ("filter", "tags", "splits", "speech")] == [2, 1, 1, 0]
