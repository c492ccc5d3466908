import json

import pytest

from configs.selection import DIFFICULTIES
from quickstart.language import translate
from quickstart.tasks import PROMPTS, TASKS, asked, difficulty, short, wanted
from quickstart.world import enumerate_all, topics

SHORT = {
    "what is three plus four": "seven",
    "take two from nine": "seven",
    "count down from five to two": "five to two",
    "what is the opposite of cold": "hot",
    "name the opposites of cold and big": "hot and small",
    "what is the capital of peru": "lima",
    "which country has the capital oslo": "norway",
    "name the capitals of peru and norway": "lima and oslo",
    "what does the cow say": "moo",
    "which animal says moo": "cow",
    "what colour is the sky": "blue",
    "name the colours of grass and snow": "green and white",
    "name one fruit and three days": "apple and monday tuesday wednesday",
    "which is less zero or ten": "zero",
    "what comes before tuesday": "monday",
    "what comes after monday": "tuesday",
}


@pytest.mark.parametrize(("text", "answer"), SHORT.items())
def test_short_answers(text, answer):
    assert short({each.text: each for each in enumerate_all()}[text]) == answer


def test_every_short_answer_has_one_to_five_words_of_the_whole_one():
    for each in enumerate_all():
        said = short(each).split()
        assert 1 <= len(said) <= 5
        assert each.topic == "counting" or set(said) <= set(each.answer.split())


def test_what_is_asked_and_wanted():
    each = next(iter(enumerate_all()))
    assert [asked(task, each.text) for task in TASKS] == [each.text, *(f"{each.text}\n{PROMPTS[task]}" for task in TASKS[1:])]
    assert wanted("answer", each) == each.answer
    assert wanted("s2tt", each) == translate(each.text)
    assert wanted("qa", each) == short(each)
    assert json.loads(wanted("tags", each)) == {"topic": each.topic, "difficulty": difficulty(each)}


def test_every_difficulty_and_topic_is_there():
    everything = list(enumerate_all())
    assert {difficulty(each) for each in everything} == set(DIFFICULTIES)
    assert {each.topic for each in everything} == set(topics())
