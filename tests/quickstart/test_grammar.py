from itertools import islice

import pytest

from quickstart.grammar import beyond, held_out, understand
from quickstart.world import Instruction, enumerate_all, instructions, members


def test_every_instruction_of_the_world_is_understood():
    for each in enumerate_all():
        found = understand(each.text)
        assert (found.topic, found.answer) == (each.topic, each.answer)


@pytest.mark.parametrize(
    ("text", "topic", "answer"),
    [
        ("repeat after me plum wet eleven", "repeat", "plum wet eleven"),
        ("say plum eleven backwards", "reverse", "eleven plum"),
        ("say the first of sad plum sheep", "choose", "sad is the first"),
        ("say the last of sad plum sheep", "choose", "sheep is the last"),
    ],
)
def test_the_open_forms_take_any_words(text, topic, answer):
    assert understand(text) == Instruction(text, topic, answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "what is the capital of cow",
        "repeat after me cow cow",
        "repeat after me cow dog pig cat",
        "repeat after me  cow",
        "say cow backwards",
        "say the last of cow dog",
        "say the last of cow dog kraken",
        "what is two plus two ",
        "What is two plus two",
    ],
)
def test_what_is_no_instruction(text):
    assert understand(text) is None


def test_held_out_is_validation_and_test():
    assert held_out() == {each.text for each in (*members("validation"), *members("test"))}
    assert not held_out() & {each.text for split in ("learned", "train") for each in members(split)}


def test_what_is_beyond_the_world_is_understood():
    found = list(beyond(300, "test"))
    assert len({each.text for each in found}) == 300
    assert not {each.text for each in found} & {each.text for each in instructions()}
    assert {each.topic for each in found} == {"repeat", "reverse", "choose"}
    assert list(islice(beyond(300, "test"), 50)) == found[:50]
    assert list(beyond(50, "another purpose")) != found[:50]
