from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis import tagging
from actors.synthesis.records import Draft
from actors.synthesis.tags import Tags
from actors.synthesis.teacher.teacher import Generation, Request
from configs.selection import DIFFICULTIES, TOPICS, TagsSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher

GOOD = {"intent": "A fact.", "topic": "Information Seeking", "knowledge": "Geography.", "difficulty": "easy"}
DRAFTS = [
    Draft(id=f"d{place}", instruction=f"What is the capital of country {place}?", topic="came", tags={"kept": 1}) for place in range(3)
]


def config(**options: Any) -> SynthesisConfig:
    return SynthesisConfig(teacher=LanguageModelSection(model="big"), tags=TagsSection(**options))


def tagged(answer: Callable[[Request], str], **options: Any) -> tuple[list[Draft], ScriptedTeacher]:
    tagger = ScriptedTeacher(lambda request: Generation(answer(request), 9, "stop"))
    with Tags(config(**options), tagger) as stage:
        drafts = stage.run(0, DRAFTS)
    assert tagger.starts == tagger.stops <= 1
    return drafts, tagger


def test_the_tagger_is_asked_once_with_a_form_and_its_reasons_are_kept() -> None:
    drafts, tagger = tagged(lambda request: json.dumps(GOOD))
    assert [(draft.topic, draft.difficulty, draft.kept) for draft in drafts] == [("Information Seeking", "easy", True)] * 3
    assert drafts[0].tags == {"kept": 1, "tagger": "big", "prompt": "1", "intent": "A fact.", "knowledge": "Geography."}
    assert len(tagger.requests) == 3
    asked = tagger.requests[2]
    assert asked.temperature == 0
    assert asked.schema is not None
    assert list(asked.schema["properties"]) == ["intent", "topic", "knowledge", "difficulty"]  # each thought before its label
    assert asked.schema["properties"]["topic"]["enum"][: len(TOPICS)] == list(TOPICS)
    said = asked.messages[0]["content"]
    assert "country 2?" in said
    for name in (*TOPICS, *DIFFICULTIES, "Coding"):
        assert name in said
    assert not tagging._PLACES.search(said)


def test_what_is_unreadable_is_asked_for_once_more() -> None:
    def answer(request: Request) -> str:
        if request.temperature == 0 and "country 1" in request.messages[0]["content"]:
            return '{"intent": "A fa'
        return "Sure! " + json.dumps({**GOOD, "topic": " planning "})

    drafts, tagger = tagged(answer)
    assert [draft.topic for draft in drafts] == ["Planning"] * 3
    assert [draft.tags.get("read") for draft in drafts] == [None, 2, None]
    assert [(request.temperature, request.seed is None) for request in tagger.requests] == [(0, True)] * 3 + [(0.7, False)]
    assert tagged(answer)[1].requests[3].seed == tagger.requests[3].seed


@pytest.mark.parametrize(
    "text", ["", "{", "no", "[1]", "{}", '{"topic": 3}', json.dumps({**GOOD, "topic": "Cars"}), json.dumps({"topic": "Planning"})]
)
def test_what_stays_unreadable_is_kept_as_others_or_rejected(text: str) -> None:
    drafts, tagger = tagged(lambda request: text)
    assert [(draft.topic, draft.difficulty, draft.rejected, draft.tags["read"]) for draft in drafts] == [("Others", "", "", 0)] * 3
    assert len(tagger.requests) == 6
    drafts, _ = tagged(lambda request: text, unreadable="reject")
    assert [draft.rejected for draft in drafts] == ["tags: unreadable"] * 3


def test_brackets_that_a_looping_model_opens_are_unreadable() -> None:
    assert tagging.read('{"topic": ' + "[" * 50_000 + "}", config().tags) is None


def test_topics_that_are_dropped() -> None:
    drafts, _ = tagged(lambda request: json.dumps({**GOOD, "topic": "coding"}))
    assert {(draft.topic, draft.rejected, draft.detail) for draft in drafts} == {("Coding", "tags: topic", "Coding")}
    drafts, _ = tagged(lambda request: json.dumps({**GOOD, "topic": "coding"}), drop_topics=())
    assert {draft.topic for draft in drafts} == {"Others"}


def test_a_short_prompt_for_a_tiny_tagger() -> None:
    short = {"explain": False, "difficulty": False, "topics": ("colour", "sum"), "drop_topics": (), "prompt": "{instruction} | {topics}"}
    drafts, tagger = tagged(lambda request: '{"topic": "sum"}', **short)
    assert {(draft.topic, draft.difficulty, draft.tags["prompt"]) for draft in drafts} == {("sum", "", "own")}
    assert tagger.requests[0].messages[0]["content"] == "What is the capital of country 0? | colour | sum"
    assert tagger.requests[0].schema is not None
    assert list(tagger.requests[0].schema["properties"]) == ["topic"]


def test_an_instruction_that_speaks_of_the_prompts_places() -> None:
    assert "say {topics} and {rating}" in tagging.prompt("say {topics} and {rating}", TagsSection())


def test_switched_off_nobody_is_asked() -> None:
    drafts, tagger = tagged(lambda request: "", enabled=False)
    assert drafts == DRAFTS
    assert not tagger.starts


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.sampled_from(list(GOOD)), inner)).map(json.dumps)
)
def test_any_answer_is_read_or_not(text: str) -> None:
    tags = tagging.read(text, TagsSection())
    assert tags is None or tags.topic in tagging.topics(TagsSection())
