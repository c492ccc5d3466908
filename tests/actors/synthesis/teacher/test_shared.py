from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType

import pytest

from actors.synthesis.records import Draft
from actors.synthesis.runner import Nothing, carry_out
from actors.synthesis.shelf import Shelf
from actors.synthesis.stage import Stage
from actors.synthesis.teacher import shared
from actors.synthesis.teacher.shared import Teachers
from actors.synthesis.teacher.teacher import Generation, Request, Teacher
from configs.teaching import LanguageModelSection
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher

ASKED = [Request(prompt_ids=[1], max_tokens=20)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedTeacher]:
    made: list[ScriptedTeacher] = []

    def open_teacher(section: LanguageModelSection, where: str) -> ScriptedTeacher:
        made.append(ScriptedTeacher())
        return made[-1]

    monkeypatch.setattr(shared, "open_teacher", open_teacher)
    return made


def test_one_life_serves_all_stages_that_ask_the_same(opened: list[ScriptedTeacher]) -> None:
    section = LanguageModelSection(model="llama")
    with Teachers() as teachers:
        for _ in range(3):
            with teachers.teacher(section.model_copy(), "teacher") as teacher:
                assert teacher.sample(ASKED)
        (only,) = opened
        assert (only.starts, only.stops) == (1, 0)
        teachers.close()
        assert (only.starts, only.stops) == (1, 1)


def test_nobody_starts_who_is_not_asked(opened: list[ScriptedTeacher]) -> None:
    with Teachers() as teachers:
        teachers.teacher(LanguageModelSection(model="llama"), "teacher")
    assert [each.starts for each in opened] == [0]


def test_other_settings_are_another_teacher(opened: list[ScriptedTeacher]) -> None:
    with Teachers() as teachers, teachers.teacher(LanguageModelSection(model="llama"), "teacher") as teacher:
        with teachers.teacher(LanguageModelSection(model="qwen"), "tags.model") as tagger:
            assert tagger is not teacher
        assert teacher.sample(ASKED)
    assert [(each.starts, each.stops) for each in opened] == [(1, 1), (1, 1)]


class Hanging(ScriptedTeacher):
    """Answers nothing until it is abandoned."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()

    def sample(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked.set()
        assert self.let_go.wait(60)
        raise CancelledError

    def _abandon(self) -> None:
        self.let_go.set()


class Asking(Stage):
    """Asks of the second block, while the first one fails."""

    name = "asking"
    ahead = 2

    def __init__(self, teacher: Teacher, hanging: Hanging) -> None:
        self._teacher, self._hanging = teacher, hanging

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        if number:
            self._teacher.sample(ASKED)
        assert self._hanging.asked.wait(60)
        raise KeyboardInterrupt

    def __enter__(self) -> Asking:
        self._teacher.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._teacher.__exit__(kind, error, trace)


def test_a_stage_that_is_interrupted_does_not_wait_for_a_teacher_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging()
    monkeypatch.setattr(shared, "open_teacher", lambda section, where: hanging)
    with Teachers() as teachers:
        stage = Asking(teachers.teacher(LanguageModelSection(model="llama"), "teacher"), hanging)
        with pytest.raises(KeyboardInterrupt):
            carry_out(stage, Nothing(2, 1), Shelf(tmp_path), lambda number, drafts: None)
    assert hanging.let_go.is_set()
    assert hanging.stops == 1
