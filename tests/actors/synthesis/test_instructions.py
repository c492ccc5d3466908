"""The stage that has instructions written: what it asks for, and what it rejects."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from actors.synthesis.instructions import Instructions
from actors.synthesis.records import Draft
from actors.synthesis.teacher.teacher import Generation, Request
from configs.synthesis import SynthesisConfig
from protocol.errors import UserError
from tests.actors.synthesis.teacher.families import FAMILIES
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher, babble

QWEN = next(family for family in FAMILIES if family.name == "Qwen 2").tokenizer()


def config(**instructions: Any) -> SynthesisConfig:
    return SynthesisConfig.model_validate({"seed": 3, "teacher": {"model": "qwen"}, "instructions": instructions})


def drafts(start: int, count: int) -> list[Draft]:
    return [Draft(id=f"i{number:07}") for number in range(start, start + count)]


def ran(made: SynthesisConfig, teacher: ScriptedTeacher, number: int, block: list[Draft]) -> list[Draft]:
    with Instructions(made, teacher, QWEN) as stage:
        return stage.run(number, block)


def test_each_sample_has_its_own_seed_and_each_block_its_own_temperature() -> None:
    teacher = ScriptedTeacher()
    blocks = [ran(config(), teacher, number, drafts(number * 8, 8)) for number in range(40)]
    assert len({request.seed for request in teacher.requests}) == 320
    assert all(request.seed is not None and 0 <= request.seed < 2**31 for request in teacher.requests)
    chosen = [{(draft.origin["temperature"], draft.origin["top_p"]) for draft in block} for block in blocks]
    assert all(len(each) == 1 for each in chosen)
    temperatures, top_ps = zip(*(each.pop() for each in chosen), strict=True)
    assert len(set(temperatures)) > 30
    assert 1.0 <= min(temperatures) < 1.05 < 1.15 < max(temperatures) <= 1.2
    assert 0.99 <= min(top_ps) < 0.995 < max(top_ps) <= 1.0


def test_a_block_is_asked_for_in_the_same_way_again() -> None:
    one, other, seeded = ScriptedTeacher(), ScriptedTeacher(), ScriptedTeacher()
    first = ran(config(), one, 5, drafts(40, 8))
    assert first == ran(config(), other, 5, drafts(40, 8))
    assert one.requests == other.requests
    ran(config().model_copy(update={"seed": 4}), seeded, 5, drafts(40, 8))
    assert not {request.seed for request in one.requests} & {request.seed for request in seeded.requests}


def test_samples_start_from_the_template_alone() -> None:
    teacher = ScriptedTeacher()
    (draft,) = ran(config(max_tokens=77), teacher, 0, drafts(0, 1))
    (request,) = teacher.requests
    assert list(request.prompt_ids or ()) == QWEN.encode("<|im_start|>user\n")
    assert set(QWEN.eos_ids) <= set(request.stop_token_ids)
    assert (request.max_tokens, request.stop) == (77, ())
    assert draft.kept
    assert draft.origin == {
        "source": "pre_query",
        "model": "qwen",
        "seed": request.seed,
        "temperature": request.temperature,
        "top_p": request.top_p,
    }


def test_settings_reach_the_samples() -> None:
    teacher = ScriptedTeacher()
    ran(config(system="Speak of cats.", first_line=True), teacher, 0, drafts(0, 1))
    ran(config(pre_query="<|im_start|>user\nHey, "), teacher, 0, drafts(0, 1))
    assert list(teacher.requests[0].prompt_ids or ()) == QWEN.encode("<|im_start|>system\nSpeak of cats.<|im_end|>\n<|im_start|>user\n")
    assert teacher.requests[0].stop == ("\n",)
    assert list(teacher.requests[1].prompt_ids or ()) == QWEN.encode("<|im_start|>user\nHey,")  # the space belongs to the next word


@pytest.mark.parametrize(
    ("generation", "instruction", "rejected", "detail"),
    [
        (Generation(' "1. What is red?" ', 7, "stop"), "What is red?", "", ""),
        (Generation("What is red?", 7, "length"), "What is red?", "instructions: truncated", ""),
        (Generation("  \n", 2, "stop"), "", "instructions: empty", ""),
        (Generation("Answer: red", 3, "stop"), "", "instructions: empty", ""),
        (Generation("red and green, " * 9, 40, "stop"), ("red and green, " * 9).strip(), "instructions: repeating", ""),
        (Generation("", 0, "refused", "no."), "", "instructions: refused", "no."),
    ],
)
def test_what_becomes_of_a_sample(generation: Generation, instruction: str, rejected: str, detail: str) -> None:
    (draft,) = ran(config(), ScriptedTeacher(lambda _: generation), 0, drafts(0, 1))
    assert (draft.instruction, draft.rejected, draft.detail) == (instruction, rejected, detail)
    assert not rejected or rejected.removeprefix("instructions: ") in Instructions.reasons


def test_rejected_drafts_stay_in_their_places() -> None:
    def some_empty(request: Request) -> Generation:
        return Generation("", 1, "stop") if (request.seed or 0) % 2 else babble(request)

    block = drafts(0, 30)
    done = ran(config(), ScriptedTeacher(some_empty), 0, block)
    assert [draft.id for draft in done] == [draft.id for draft in block]
    assert Counter(draft.kept for draft in done).keys() == {True, False}


def test_a_seeded_chat_asks_for_something_else_each_time() -> None:
    teacher = ScriptedTeacher()
    done = ran(config(source="seeded_chat", system="You write."), teacher, 0, drafts(0, 50))
    assert all(request.prompt_ids is None and not request.stop_token_ids for request in teacher.requests)
    assert {request.messages[0]["content"] for request in teacher.requests} == {"You write."}
    questions = [request.messages[1]["content"] for request in teacher.requests]
    assert len(set(questions)) >= 49
    assert done[0].origin["source"] == "seeded_chat"
    again = ScriptedTeacher()
    ran(config(source="seeded_chat", system="You write."), again, 0, drafts(0, 50))
    assert again.requests == teacher.requests


def test_the_teacher_starts_with_the_first_stage_and_ends_with_the_last() -> None:
    teacher = ScriptedTeacher()
    with Instructions(config(), teacher, QWEN), Instructions(config(), teacher, QWEN):
        assert (teacher.starts, teacher.stops) == (1, 0)
    assert (teacher.starts, teacher.stops) == (1, 1)


def test_a_template_that_takes_no_system_prompt_is_told_before_anything_starts() -> None:
    gemma = next(family for family in FAMILIES if family.name == "Gemma 2").tokenizer()
    teacher = ScriptedTeacher()
    with pytest.raises(UserError, match=r"instructions\.system"), Instructions(config(system="Be brief."), teacher, gemma):
        pass
    assert teacher.starts == 0
