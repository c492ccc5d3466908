import sys

import pytest

from actors.synthesis.speech.spoken import SpokenForm, is_plain
from protocol.errors import UserError

SAID = {
    "The price is $12.50.": "The price is twelve point five dollars.",
    "Dr. Smith was born on 3 March 1984.": "doctor Smith was born on the third of march nineteen eighty four.",
    "What is 3 + 4?": "What is three plus four?",
    "Is 45% more than half?": "Is forty five percent more than half?",
    "Who was the 21st president?": "Who was the twenty first president?",
    "Music of the 1990s, or the '60s": "Music of the nineteen nineties, or the sixties",
    "cats vs. dogs, e.g. \"mine\"": "cats versus dogs, for example \"mine\"",
    "a hill of 800 m": "a hill of eight hundred meters",
    "the temperature is -5 °C": "the temperature is negative five degrees Celsius",
}  # fmt: skip


@pytest.fixture(scope="module")
def spoken_form():
    pytest.importorskip("wetext")
    return SpokenForm()


@pytest.mark.parametrize("text", SAID)
def test_english_as_people_say_it(spoken_form, text):
    assert spoken_form(text, "en") == SAID[text]


@pytest.mark.parametrize("text", ["Write a haiku about autumn leaves.", "What's the capital of Peru?", "naïve café, für Ärzte", ""])
def test_what_is_words_already_stays(spoken_form, text):
    assert is_plain(text)
    assert spoken_form(text, "en") == text


def test_chinese_and_japanese_are_written_out_and_other_languages_stay(spoken_form):
    assert spoken_form("2024年5月6日花了35元", "zh-CN") == "二零二四年五月六日花了三十五元"
    assert spoken_form("5月6日に3,000円", "ja") == "五月六日に三千円"
    assert spoken_form("Am 3.4. um 5 Uhr", "de") == "Am 3.4. um 5 Uhr"


@pytest.mark.parametrize("text", ["St. John", "IV", "3", "a+b", "e.g. this", "100%"])
def test_what_a_grammar_may_have_to_say_more_about_is_not_plain(text):
    assert not is_plain(text)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wetext", None)
    with pytest.raises(UserError, match=r"wetext, which is not installed; pip install 'rba\[speech\]', or set speech.spoken_form=never"):
        SpokenForm()
