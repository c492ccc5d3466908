import re
import string
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.items import RewardItem
from actors.rewards.scorers.qa import QaScorer, contains, normalise, words
from configs.scorers import QaSection

TEXTS = st.one_of(st.text(max_size=40), st.text("aé e\u0301ß7٣_-.,'！ー가猫ก็\u200b\u00a0\nTHE ", max_size=40))


def parts(answer: str, *accepted: str, language: str = "en") -> tuple[bool, bool]:
    """(containment, exact)."""
    [score] = QaScorer(QaSection()).score([RewardItem("1", "who", answer, accepted[0], language, accepted[1:])])
    assert score.score == score.parts["containment"]
    return bool(score.parts["containment"]), bool(score.parts["exact"])


@pytest.mark.parametrize(
    ("answer", "accepted", "contained", "exact"),
    [
        ("The capital is Lima.", ["lima"], True, False),
        ("Lima", ["lima"], True, True),
        ("The Lima!", ["Lima"], True, True),
        ("It is Climax", ["lima"], False, False),
        ("new york city", ["York City"], True, False),
        ("new city of york", ["York City"], False, False),
        ("It was 1,000 men", ["1000"], False, False),
        ("about 17 years", ["7"], False, False),
        ("São Paulo", ["Sa\u0303o Paulo"], True, False),
        ("seven", ["eight", "7", "Seven"], True, True),
        ("I would say 7", ["seven", "7"], True, False),
        ("", ["lima"], False, False),
        ("?!", ["lima"], False, False),
        ("The Who", ["The"], True, False),
        ("who", ["The"], False, False),
        ("the", ["The"], True, True),
    ],
)
def test_what_is_right(answer: str, accepted: list[str], contained: bool, exact: bool):
    assert parts(answer, *accepted) == (contained, exact)


@pytest.mark.parametrize(
    ("language", "answer", "accepted", "contained"),
    [
        ("zh-CN", "秘鲁的首都是利马。", "利马", True),
        ("zh", "那是在2008年发生的", "8", False),
        ("zh", "那是在2008年发生的", "2008年", True),
        ("ja", "答えはかぎです", "がき", False),
        ("ja", "答えはガムです", "ガム", True),
        ("ja", "それはガムです", "カム", False),
        ("th", "คำตอบคือเจ็ด", "เจ็ด", True),
        ("ko", "그것은 서울 입니다", "서울", True),
        ("en", "秘鲁的首都是利马", "利马", False),
    ],
)
def test_words_of_languages_without_spaces(language: str, answer: str, accepted: str, contained: bool):
    assert parts(answer, accepted, language=language)[0] is contained


@given(TEXTS)
def test_words_are_those_of_dense_passage_retrieval(text: str):
    pattern = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.UNICODE)
    known = "".join(character for character in text if unicodedata.category(character) != "Cn")  # regex may know a later Unicode
    expected = [match.group().lower() for match in pattern.finditer(unicodedata.normalize("NFD", known))]
    assert list(words(known, False)) == expected
    assert "".join(words(known, True)) == "".join(expected)


@given(TEXTS)
def test_normalisation_is_that_of_squad(text: str):
    lower = "".join(character for character in text.lower() if character not in set(string.punctuation))
    expected = " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())
    assert normalise(text) == expected or not expected


@given(st.lists(st.sampled_from("ab"), max_size=8), st.lists(st.sampled_from("ab"), max_size=3))
def test_contains_equals_a_search_in_text(said: list[str], wanted: list[str]):
    assert contains(tuple(said), tuple(wanted)) == (bool(wanted) and "".join(wanted) in "".join(said))


def test_exact_match_may_be_the_score():
    [score] = QaScorer(QaSection(score="exact")).score([RewardItem("1", "who", "it is lima", "lima")])
    assert (score.score, score.parts) == (0.0, {"containment": 1.0, "exact": 0.0})


def test_an_item_without_any_acceptable_answer_is_an_error():
    items = [
        RewardItem("1", "who", "x"),
        RewardItem("2", "who", "x", " ", answers=("",)),
        RewardItem("3", "who", "x", None, answers=("X",)),
    ]
    assert [(score.kind, score.score) for score in QaScorer(QaSection()).score(items)] == [("no_reference", None)] * 2 + [(None, 1.0)]


@pytest.mark.parametrize("language", ["zh", "zh-CN", "zho_Hans", "zho_Hant", "chi", "cmn_hans_cn", "yue_Hant"])
def test_chinese_by_any_of_its_codes(language: str):
    item = RewardItem("1", "法国的首都是哪里？", "法国的首都是巴黎。", "巴黎", language)
    assert QaScorer(QaSection()).score([item])[0].parts["containment"] == 1.0
