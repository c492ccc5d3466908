from __future__ import annotations

import pytest

from actors.synthesis.teacher import shared
from actors.synthesis.teacher.shared import Teachers
from actors.synthesis.teacher.teacher import Request
from configs.synthesis import LanguageModelSection
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
