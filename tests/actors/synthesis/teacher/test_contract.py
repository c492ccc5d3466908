"""What every teacher promises: the scripted one of the tests, vLLM in process, and vLLM's own server over HTTP."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.prequery import pre_query
from actors.synthesis.teacher.teacher import Generation, Request, Teacher
from actors.synthesis.teacher.tokenizer import open_tokenizer
from configs.teaching import LanguageModelSection
from tests.actors.synthesis.teacher.conftest import CHECKPOINT
from tests.actors.synthesis.teacher.scripted import ScriptedTeacher

START = pre_query(open_tokenizer(LanguageModelSection(model=str(CHECKPOINT)), "teacher"))
QUESTION = [{"role": "user", "content": "what is three plus four"}]
COLOURS = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"enum": ["small", "large"]}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}


@pytest.fixture(params=["scripted", pytest.param("vllm", marks=pytest.mark.engine), pytest.param("served", marks=pytest.mark.engine)])
def teacher(request: pytest.FixtureRequest) -> Any:
    if request.param == "vllm":
        yield request.getfixturevalue("vllm_teacher")
        return
    if request.param == "scripted":
        made: Teacher = ScriptedTeacher()
    else:
        url = request.getfixturevalue("vllm_url")
        made = open_teacher(LanguageModelSection(model="tiny", url=url, tokenizer=str(CHECKPOINT), attempts=2))
    with made:
        yield made


def raw(seed: int, **more: Any) -> Request:
    settings = {"max_tokens": 24, "temperature": 1.1, "top_p": 0.99, "stop_token_ids": START.stop_token_ids}
    return Request(prompt_ids=START.token_ids, seed=seed, **{**settings, **more})


def test_one_generation_a_request_in_order(teacher: Teacher) -> None:
    many = teacher.sample([raw(seed) for seed in range(40)])
    assert len({each.text for each in many}) > 1
    for seed in (0, 17, 39):
        assert teacher.sample([raw(seed)])[0].text == many[seed].text
    for each in many:
        assert each.finish_reason in {"stop", "length"}
        assert 0 < each.tokens <= 24
        assert "<|" not in each.text
        assert not each.detail
    assert "stop" in {each.finish_reason for each in many}


def test_greedy_needs_no_seed(teacher: Teacher) -> None:
    one, other = teacher.sample([Request(messages=QUESTION, max_tokens=24), Request(messages=QUESTION, max_tokens=24, seed=5)])
    assert one == other
    assert one.finish_reason == "stop"
    assert one.text.strip()


def test_a_text_is_cut_off_at_its_longest(teacher: Teacher) -> None:
    cut = teacher.sample([raw(seed, max_tokens=1) for seed in range(8)])
    assert {each.tokens for each in cut} == {1}
    assert "length" in {each.finish_reason for each in cut}


def test_text_by_a_schema(teacher: Teacher) -> None:
    asked = [Request(messages=QUESTION, max_tokens=64, temperature=1.0, seed=seed, schema=COLOURS) for seed in range(4)]
    for each in teacher.sample(asked):
        assert each.finish_reason == "stop"
        said = json.loads(each.text)
        assert said["colour"] in {"red", "green"}
        assert said["size"] in {"small", "large"}


def test_a_request_that_is_too_long_harms_no_other(teacher: Teacher) -> None:
    long = Request(messages=[{"role": "user", "content": "red " * 400}], max_tokens=8)
    first, refused, last = teacher.sample([raw(1), long, raw(2)])
    assert (refused.finish_reason, refused.text) == ("refused", "")
    assert refused.detail
    assert [first, last] == teacher.sample([raw(1), raw(2)])


def test_threads_share_it(teacher: Teacher) -> None:
    def block(number: int) -> list[Generation]:
        return teacher.sample([raw(number * 8 + offset) for offset in range(8)])

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(block, range(4)))
    assert [each.text for each in block(2)] == [each.text for each in together[2]]
    assert all(len(each) == 8 for each in together)


def test_nothing_is_asked_of_nobody(teacher: Teacher) -> None:
    assert teacher.sample([]) == []
