from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.corpora.corpus import SPLITS, Recording
from actors.synthesis.corpora.held_out import TRANSCRIPT, TRANSLATION, HeldOut, keep_apart, normalised


def recording(name: str, transcript: str, sentence: str = "", translation: str = "x") -> Recording:
    return Recording(id=name, transcript=transcript, sentence=sentence, translation=translation)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Fünf Äpfel!", "fünf äpfel"), ("STRASSE", "Straße"), ("ﬁve", "five"), ("它 很大。", "它很大"), ("Don't", "dont"), ("Ａ１", "a1")],
)
def test_the_same_sentence_written_otherwise(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_english_is_no_exception(text: str) -> None:
    assert normalised(text) == normalised(text + "é").removesuffix(normalised("é"))


def test_vowel_signs_make_words_different() -> None:
    assert normalised("कि") != normalised("का")
    assert normalised("schon") != normalised("schön")


def test_every_split_is_kept_apart_with_counts_by_reason() -> None:
    elsewhere = HeldOut()
    elsewhere.add("FLEURS' test", ["9"], ["A famous sentence."])
    splits = {
        "train": [
            recording("a", "Fine."),
            recording("b", "Named in the test.", sentence="1"),
            recording("c", "THE TEST"),
            recording("d", "the validation!"),
            recording("e", "a famous sentence"),
            recording("f", "Another language's test.", sentence="9"),
            recording("g", "(Applause)"),
            recording("h", "Fine."),
        ],
        "validation": [recording("i", "The validation."), recording("j", "The test?"), recording("k", "A famous sentence")],
        "test": [
            recording("l", "The test.", sentence="1"),
            recording("m", "The test."),
            recording("n", "A famous sentence."),
            recording("o", "No translation.", translation=""),
        ],
    }
    kept, left_out = keep_apart(splits, elsewhere, ["test"])
    assert {split: [each.id for each in of] for split, of in kept.items()} == {
        "train": ["a", "h"],
        "validation": ["i"],
        "test": ["l", "m", "n"],
    }
    assert left_out["train"] == Counter(
        {
            "its sentence is in the test": 1,
            "its transcript is in the test": 1,
            "its transcript is in the validation": 1,
            "its transcript is in FLEURS' test": 1,
            "its sentence is in FLEURS' test": 1,
            TRANSCRIPT: 1,
        }
    )
    assert left_out["validation"] == Counter({"its transcript is in the test": 1, "its transcript is in FLEURS' test": 1})
    assert left_out["test"] == Counter({TRANSLATION: 1})


RECORDINGS = st.lists(
    st.builds(
        recording, st.uuids().map(str), st.sampled_from(["One", "one!", "Two", "(two)", "three", "4"]), st.sampled_from(["", "1", "2", "3"])
    ),
    max_size=8,
)


@given(st.fixed_dictionaries(dict.fromkeys(SPLITS, RECORDINGS)), RECORDINGS)
def test_training_and_test_share_nothing(splits: dict[str, list[Recording]], elsewhere: list[Recording]) -> None:
    held_out = HeldOut()
    held_out.add("elsewhere", [each.sentence for each in elsewhere], [each.transcript for each in elsewhere])
    kept, left_out = keep_apart(splits, held_out)
    for split in SPLITS:
        assert len(kept[split]) + sum(left_out[split].values()) == len(splits[split])
    for learnt, measured in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not {normalised(each.transcript) for each in kept[learnt]} & {normalised(each.transcript) for each in splits[measured]}
        assert not {each.sentence for each in kept[learnt]} & {each.sentence for each in splits[measured]} - {""}
    for learnt in ("train", "validation"):
        assert not {normalised(each.transcript) for each in kept[learnt]} & {normalised(each.transcript) for each in elsewhere}
