import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickstart.language import back, dictionary, translate
from quickstart.training.tokenizer import build_tokenizer
from quickstart.world import instructions, words

TEXTS = st.lists(st.sampled_from([*sorted(words()), *["of", "and", "or"] * 30]), min_size=1, max_size=12).map(" ".join)


def test_each_word_has_one_of_its_own():
    assert set(dictionary()) == words()
    assert len(set(dictionary().values())) == len(dictionary())
    assert not set(dictionary().values()) & words()


@given(TEXTS)
def test_a_translation_has_one_text(text):
    assert back(translate(text)) == text


@given(TEXTS)
def test_a_text_has_one_translation(text):
    foreign = " ".join(dictionary()[word] for word in text.split())
    assert translate(back(foreign)) == foreign


def test_the_rules_of_order():
    foreign = dictionary()
    for english, order in {
        "count down": "down count",
        "name the opposites of hot and dry": "the hot of opposites and dry name",
        "which is more one or two": "is more two or one which",
        "name the sound of": "the sound of name",
    }.items():
        assert translate(english) == " ".join(foreign[word] for word in order.split())


def test_no_two_instructions_have_one_translation():
    assert len({translate(each.text) for each in instructions()}) == len(instructions())


def test_every_word_is_two_tokens():
    tokenizer = build_tokenizer()
    assert {len(tokenizer.encode(f"{space}{word}")) for word in dictionary().values() for space in ("", " ")} == {2}


def test_a_word_that_the_languages_lack():
    with pytest.raises(KeyError):
        translate("name the kraken")
    with pytest.raises(KeyError):
        back("name")
