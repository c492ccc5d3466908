from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.speech.voices import Casting, Voice

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


def drawn(names, seed, draft, most, language="en"):
    return [voice.name for voice in Casting([Voice(name) for name in names], seed).order(draft, language, most)]


@given(NAMES, st.integers(0, 2**63), st.text(max_size=10), st.integers(1, 40), st.randoms())
def test_the_draw_is_distinct_and_does_not_depend_on_the_order_of_the_bank(names, seed, draft, most, random):
    first = drawn(names, seed, draft, most)
    assert len(first) == len(set(first)) == min(most, len(names))
    random.shuffle(names)
    assert drawn(names, seed, draft, most) == first
    assert drawn(names, seed, draft, 100)[:most] == first


@given(NAMES, st.text(min_size=9, max_size=9), st.integers(1, 8))
def test_a_voice_that_joins_takes_only_its_own_place(names, newcomer, most):
    before, after = drawn(names, 7, "d", most), drawn([*names, newcomer], 7, "d", most)
    left_out = [name for name in after if name != newcomer]
    assert left_out == before[: len(left_out)]
    assert len(left_out) >= len(before) - 1


def test_every_voice_speaks_about_as_often_as_the_others():
    casting = Casting([Voice(str(number)) for number in range(20)], 3)
    counts = dict.fromkeys(map(str, range(20)), 0)
    for draft in range(4000):
        for voice in casting.order(f"{draft:09d}", "en", 4):
            counts[voice.name] += 1
    assert 690 < min(counts.values()) <= max(counts.values()) < 920


def test_voices_of_one_language_speak_nothing_else():
    voices = [Voice("a", language="en"), Voice("b", language="de"), Voice("c"), Voice("d", language="pt-BR")]
    casting = Casting(voices, 0)
    assert {voice.name for voice in casting.order("x", "de", 9)} == {"b", "c"}
    assert {voice.name for voice in casting.order("x", "pt", 9)} == {"c", "d"}
    assert {voice.name for voice in casting.order("x", "en-US", 9)} == {"a", "c"}
    assert casting.speaks("fr") == 1
