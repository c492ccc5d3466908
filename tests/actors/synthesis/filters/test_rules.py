from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.filters import completeness, length, notation
from actors.synthesis.filters.characters import Characters
from actors.synthesis.filters.rules import REASONS, judge, rules
from actors.synthesis.records import Draft
from configs.selection import FilterSection
from protocol.errors import UserError

SPOKEN = [
    "Can you introduce the history of the pyramids?",
    "what is three plus four",
    "What is 3 + 4?",
    "How many days are there between 24/12/2025 and 01/01/2026?",
    "Is it true that 50/50 is the same as half-and-half?",
    "I'm going to New York (by train) - what should I pack for 3-4 days?",
    "Write a Python function that sorts a list of words by their length.",
    "Which is better, Amazon.com or eBay, if I want to spend $20 or 20% less?",
    "Explain the difference between TCP/IP and UDP, e.g. for a video call.",
    'Finish this sentence: "The early bird catches the"',
    "Tell me about R&B, rock 'n' roll and café culture in São Paulo.",
    "My TV is 55\" wide, will it fit?",
    "Say ho ho ho like Father Christmas!",
    "It's 35° today - what's that in Fahrenheit?",
]  # fmt: skip
WRITTEN = {
    "mathematics": [
        r"Find the value of \frac{1}{2} of nine.", "Solve 2x + 3 = 7 for x.", "What is the derivative of x^2 at zero?",
        "Let f(x) = 3 and tell me more.", "Compute 12 * 4 - 7 + 3 please.", "What does √2 mean to you?", "Simplify $x_1 + y$ now please",
    ],
    "code": [
        "What does `print` do in my programme?", "Explain this:\n```\nls\n```", "What is wrong with foo_bar(3) in here?",
        "Fix for (i = 0; i < 3; i++) { x(); }", "Why does SELECT name FROM users hang?", "Sort [3, 1, 2, 9] for me please.",
        "import numpy as np;\nwhat is this?", "Make <div class='a'>bold</div> please.",
    ],
    "markup": [
        "Which is best?\n1. red\n2. blue", "Sort these:\n- pears\n- plums", "Summarise the table\n| a | b |\n|---|---|",
        "# Task\nTell a joke",
        "Say **this** aloud please.",
    ],
    "address": [
        "Summarise https://example.org/page for me.", "Write to jane.doe@example.com about it.", "What is in /usr/local/bin on Linux?",
        "Who runs www.example.org these days?",
    ],
    "blank": ["Write a letter to [Your Name] please.", "The sky is ____ today.", "Tell me about <city> please."],
    "unspeakable": ["Tell me a joke 😀 now", "Что такое любовь?", "Was heißt 爱 auf Deutsch?", "Explain the sign ☂ to me"],
    "truncated": ["Translate the following:", "I like apples, pears,", "Who said (in 1920 that it is so?", 'Explain "the early bird'],
    "repeating": ["tell me " * 12, "a story about my little dog " * 5],
    "too short": ["Hello"],
    "too long": ["word " * 61, "incomprehensibilities " * 40],
    "empty": ["", "  \n"],
}  # fmt: skip
ALL = rules(FilterSection())


@pytest.mark.parametrize("text", SPOKEN)
def test_what_can_be_spoken_stays(text: str) -> None:
    assert judge(Draft(id="a", instruction=text, reference="Yes."), ALL) == ("", "")


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in WRITTEN.items() for text in texts])
def test_what_is_written_for_eyes_goes(reason: str, text: str) -> None:
    found, detail = judge(Draft(id="a", instruction=text, reference="Yes."), ALL)
    assert (found, bool(detail)) == (reason, True)


WORDS = st.text("abcdefghijklmnopqrstuvwyz", min_size=1, max_size=9)


@given(st.lists(WORDS, min_size=2, max_size=40, unique=True), st.sampled_from(["", ".", "?", "!"]))
def test_plain_words_within_the_limits_are_never_rejected(words: list[str], end: str) -> None:
    assert judge(Draft(id="a", instruction=" ".join(words) + end, reference="yes"), ALL) == ("", "")


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged(instruction: str, reference: str) -> None:
    every = FilterSection(words=("a.b",), refusals=True, max_reference_words=5)
    reason, detail = judge(Draft(id="a", instruction=instruction, reference=reference), rules(every))
    assert bool(reason) == bool(detail)
    assert reason in ("", *REASONS)


def test_each_rule_can_be_left_out() -> None:
    lenient = FilterSection(
        min_words=0, max_words=999, max_spoken_s=999, mathematics=False, code=False, markup=False, addresses=False, blanks=False,
        characters=False, truncated=False, repeating=False,
    )  # fmt: skip
    for text in (text for reason, texts in WRITTEN.items() if reason != "empty" for text in texts):
        assert judge(Draft(id="a", instruction=text, reference="Yes."), rules(lenient)) == ("", "")


def test_references() -> None:
    section = FilterSection(max_reference_words=5, refusals=True, words=("derivative",))

    def reason(reference: str, instruction: str = "Who was he?") -> str:
        return judge(Draft(id="a", instruction=instruction, reference=reference), rules(section))[0]

    assert reason("Lima.") == ""
    assert reason("") == "reference too short"
    assert reason("It is the city of Lima") == "reference too long"
    assert reason("Lima, and") == ""
    assert reason("Lima,") == "reference truncated"
    assert reason("I cannot help, sorry") == "refusal"
    assert reason("I can’t assist.") == "refusal"
    assert reason("Lima.", "What is a derivative, then?") == "word"
    assert judge(Draft(id="a", instruction="Who was he?", reference="and so on " * 60), ALL)[0] == "reference repeating"


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(UserError, match=r"filter\.refusals: '\('"):
        rules(FilterSection(refusals=("(",)))


def test_other_languages_have_their_own_letters() -> None:
    assert Characters("ru-RU").unspeakable("Что такое любовь в Python?") == ""
    assert Characters("zh").unspeakable("你能介绍一下金字塔的历史吗？") == ""
    assert Characters("ja").unspeakable("コーヒーを一杯ください。") == ""
    assert Characters("hi").unspeakable("आप कैसे हैं?") == ""
    assert Characters("fa").unspeakable("می‌خواهم") == ""
    assert Characters("en").unspeakable("می") == "U+0645 ARABIC LETTER MEEM"
    assert Characters("en", ["greek"], also="☂").unspeakable("αβγ ☂") == ""
    assert Characters("en").unspeakable("a\u200db") == "U+200D ZERO WIDTH JOINER"


def test_words_and_seconds() -> None:
    assert length.words("What is the capital of Peru?") == 6
    assert length.words("你能介绍一下金字塔的历史吗") == 7
    assert length.words("café au lait") == 3
    minute = "the quick brown fox jumps over the lazy dog and " * 16
    assert 50 < length.spoken_s(minute) < 65
    assert length.spoken_s("1234") > length.spoken_s("abcd")


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 24), st.integers(0, 6))
def test_loops_are_found_wherever_they_are(around: list[int], period: int, more: int) -> None:
    text = " ".join(f"w{each}x{place}" for place, each in enumerate(around))
    assert completeness.repeating(text) == ""
    times = (4 if period > 3 else 8) + more
    loop = " ".join(f"l{each}" for each in range(period))
    assert completeness.repeating(" ".join([text, *[loop] * times, text]))
    assert not completeness.repeating(" ".join([text, *[loop] * ((4 if period > 3 else 8) - 1), text]))


def test_signs_between_operands_are_counted() -> None:
    assert notation.mathematics("What is 3 + 4 - 5?") == "+ -"
    assert notation.mathematics("What is 3 + 4 - 5?", operators=2) == ""
    assert notation.mathematics("What is 3 + 4?", operators=0) == "+"


@given(st.text(st.sampled_from("aXx1 \n\t.,:;-+*/=<>^%$#@!?_~`|\\()[]{}\"'&…²√é"), max_size=40))
def test_a_quick_look_lets_nothing_through_that_a_close_one_finds(text: str) -> None:
    found = [finder(text) for finder in FINDERS]
    everything = re.compile("")
    with pytest.MonkeyPatch.context() as patch:
        for module in (notation, completeness):
            for name in [name for name in vars(module) if name.endswith("_SIGNS")]:
                patch.setattr(module, name, everything)
        assert [finder(text) for finder in FINDERS] == found


FINDERS = (notation.mathematics, notation.code, notation.markup, notation.address, completeness.blank)
