"""The stage that has references written: what it asks, and what it rejects."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from actors.synthesis.records import Draft
from actors.synthesis.responses import Responses
from actors.synthesis.teacher.teacher import Generation
from configs.synthesis import SynthesisConfig
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher


def config(**responses: Any) -> SynthesisConfig:
    return SynthesisConfig.model_validate({"seed": 3, "teacher": {"model": "qwen"}, "responses": responses})


def ran(made: SynthesisConfig, teacher: ScriptedTeacher, *block: Draft) -> list[Draft]:
    with Responses(made, teacher) as stage:
        return stage.run(0, block)


def test_the_instruction_is_asked_as_it_is_and_greedily() -> None:
    teacher = ScriptedTeacher(lambda request: Generation(f" To: {request.messages[0]['content']} ", 5, "stop"))
    (draft,) = ran(config(max_tokens=99), teacher, Draft(id="a", instruction="What is red?", origin={"seed": 7}))
    (request,) = teacher.requests
    assert request.messages == [{"role": "user", "content": "What is red?"}]
    assert (request.max_tokens, request.temperature, request.seed) == (99, 0.0, None)
    assert (draft.reference, draft.prompt, draft.language, draft.kept) == ("To: What is red?", "", "en", True)
    assert draft.origin == {"seed": 7, "reference": {"model": "qwen", "temperature": 0.0, "top_p": 1.0}}


def test_places_in_the_prompt_are_filled_once() -> None:
    teacher = ScriptedTeacher()
    made = config(prompt="{prompt}\n\n{instruction} ({other})", task_prompt="Translate to German.", system="Be exact.", language="de")
    own = Draft(id="b", instruction="What is {prompt}?", prompt="Translate to {instruction}.")
    first, second = ran(made, teacher, Draft(id="a", instruction="Red."), own)
    assert [message["role"] for message in teacher.requests[0].messages] == ["system", "user"]
    assert teacher.requests[0].messages[1]["content"] == "Translate to German.\n\nRed. ({other})"
    assert teacher.requests[1].messages[1]["content"] == "Translate to {instruction}.\n\nWhat is {prompt}? ({other})"
    assert (first.prompt, second.prompt) == ("Translate to German.", "Translate to {instruction}.")
    assert first.language == "de"
    with pytest.raises(ValidationError):
        config(prompt="Answer!")


def test_sampled_answers_have_seeds() -> None:
    teacher = ScriptedTeacher()
    drafts = [Draft(id=f"i{number}", instruction="Red?") for number in range(20)]
    done = ran(config(temperature=0.7, top_p=0.9), teacher, *drafts)
    assert len({request.seed for request in teacher.requests}) == 20
    assert [draft.origin["reference"]["seed"] for draft in done] == [request.seed for request in teacher.requests]
    assert done == ran(config(temperature=0.7, top_p=0.9), ScriptedTeacher(), *drafts)


def test_a_reference_of_the_corpus_stays() -> None:
    teacher = ScriptedTeacher()
    given = Draft(id="a", instruction="Red?", reference="Rot?", language="de")
    assert ran(config(language="fr"), teacher, given) == [given]
    assert not teacher.requests
    kept, written = ran(config(), teacher, given, Draft(id="b", instruction="Green?"))
    assert kept == given
    assert written.reference
    assert len(teacher.requests) == 1


def test_a_corpus_says_into_what_language() -> None:
    made = config(language="fr")
    made.instructions.source = "corpus"
    (draft,) = ran(made, ScriptedTeacher(), Draft(id="a", instruction="Red?", spoken_language="en", language="de"))
    assert draft.reference
    assert draft.language == "de"


@pytest.mark.parametrize(
    ("generation", "reference", "rejected"),
    [
        (Generation("<think>hm</think> Red.", 4, "stop"), "Red.", ""),
        (Generation("Red and", 2, "length"), "Red and", "responses: truncated"),
        (Generation("<think>hm</think>", 2, "stop"), "", "responses: empty"),
        (Generation("red and green, " * 9, 40, "stop"), ("red and green, " * 9).strip(), "responses: repeating"),
        (Generation("", 0, "refused", "too long"), "", "responses: refused"),
    ],
)
def test_what_becomes_of_an_answer(generation: Generation, reference: str, rejected: str) -> None:
    (draft,) = ran(config(), ScriptedTeacher(lambda _: generation), Draft(id="a", instruction="What?"))
    assert (draft.reference, draft.rejected, draft.detail) == (reference, rejected, generation.detail)
    assert not rejected or rejected.removeprefix("responses: ") in Responses.reasons
