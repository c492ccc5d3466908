"""The stage `tags` with a real engine, held to its form."""

from __future__ import annotations

import pytest

from actors.synthesis.records import Draft
from actors.synthesis.tags import Tags
from actors.synthesis.teacher.teacher import Teacher
from configs.selection import DIFFICULTIES, TagsSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection

TAGS = TagsSection(explain=False, topics=("sum", "colour", "others"), drop_topics=("sounds",), prompt="{instruction}", max_tokens=96)


@pytest.mark.engine
def test_a_model_that_has_never_seen_a_form_fills_it_in(vllm_teacher: Teacher) -> None:
    drafts = [Draft(id=f"d{place}", instruction=f"what is {word} plus four") for place, word in enumerate(["one", "two", "three", "six"])]
    with Tags(SynthesisConfig(teacher=LanguageModelSection(model="tiny"), tags=TAGS), vllm_teacher) as stage:
        tagged = stage.run(0, drafts)
        assert stage.run(0, drafts) == tagged
    for draft in tagged:
        assert draft.tags.get("read") is None
        assert draft.topic in {"sum", "colour", "others", "sounds"}
        assert draft.difficulty in DIFFICULTIES
        assert draft.kept == (draft.topic != "sounds")
