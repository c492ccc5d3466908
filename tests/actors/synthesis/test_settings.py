from __future__ import annotations

from pathlib import Path

import pytest

from actors.synthesis import settings
from actors.synthesis.records import Draft
from actors.synthesis.shelf import Shelf
from configs.synthesis import SynthesisConfig
from protocol.errors import UserError


def config(**sections: object) -> SynthesisConfig:
    return SynthesisConfig.model_validate({"teacher": {"model": "llama"}, **sections})


def begun(folder: Path, made_with: SynthesisConfig) -> Shelf:
    """A shelf with a block."""
    shelf = Shelf(folder)
    settings.note(made_with, shelf)
    shelf.commit(0, [Draft(id="0")])
    return shelf


def test_a_stage_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    shelf = begun(tmp_path / "responses", config())
    settings.check("responses", config(), shelf)
    with pytest.raises(UserError, match=r"begun with responses\.temperature=0\.0 and is now called with 0\.5"):
        settings.check("responses", config(responses={"temperature": 0.5}), shelf)
    with pytest.raises(UserError, match=r"teacher\.model='llama'"):
        settings.check("responses", config(teacher={"model": "qwen"}), shelf)


def test_what_concerns_another_stage_may_change(tmp_path: Path) -> None:
    shelf = begun(tmp_path / "instructions", config())
    settings.check("instructions", config(name="moved", speech={"voices_per_group": 2}), shelf)


def test_the_way_to_the_teacher_may_change(tmp_path: Path) -> None:
    shelf = begun(tmp_path / "instructions", config())
    settings.check("instructions", config(teacher={"model": "llama", "url": "http://elsewhere/v1", "attempts": 2}), shelf)


def test_more_instructions_may_be_asked_for_at_any_time(tmp_path: Path) -> None:
    for stage in ("instructions", "splits"):
        shelf = begun(tmp_path / stage, config())
        settings.check(stage, config(instructions={"count": 300_000}), shelf)
        with pytest.raises(UserError, match="was begun with"):
            settings.check(stage, config(instructions={"temperature": (0.5, 0.5)}, splits={"test_per_topic": 1}), shelf)


def test_settings_that_were_damaged_are_named(tmp_path: Path) -> None:
    shelf = begun(tmp_path / "filter", config())
    (tmp_path / "filter" / settings.FILE).write_text("name: [")
    with pytest.raises(UserError, match=r"settings\.yaml: the settings of the stage cannot be read"):
        settings.check("filter", config(), shelf)


def test_a_stage_without_a_block_may_begin_with_other_settings(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "speech")
    settings.note(config(speech={"bank": "misspelt.jsonl"}), shelf)
    settings.check("speech", config(speech={"bank": "voices.jsonl"}), shelf)


def test_settings_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "filter")
    (tmp_path / "filter" / f".{settings.FILE}.partial").mkdir(parents=True)
    with pytest.raises(UserError, match=r"settings\.yaml: it cannot be written"):
        settings.note(config(), shelf)
