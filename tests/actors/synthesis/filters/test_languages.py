from __future__ import annotations

import builtins
from typing import Any

import pytest

from actors.synthesis.filters.rules import judge, rules
from actors.synthesis.records import Draft
from configs.selection import FilterSection
from protocol.errors import UserError
from quickstart.world import instructions

WANTED = FilterSection(language_confidence=0.7)


def test_another_language_is_found_and_short_questions_stay() -> None:
    pytest.importorskip("py3langid")
    every = rules(WANTED)

    def found(text: str, language: str = "en") -> tuple[str, str]:
        return judge(Draft(id="a", instruction=text, reference="Yes.", spoken_language=language), every)

    german = "Wie wird das Wetter heute in Berlin, und was soll ich anziehen?"
    assert found(german)[0] == "language"
    assert found(german)[1].startswith("de ")
    assert found(german, "de-AT") == ("", "")
    assert found(german, "xx") == ("", "")
    assert found("Can you introduce the history of the pyramids?") == ("", "")
    for each in instructions()[::11]:
        assert found(each.text) == ("", "")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("py3langid"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"filter\.language_confidence: .*install rba\[languages\]"):
        rules(WANTED)
