import pytest
import sacrebleu

from actors.rewards.items import RewardItem
from actors.rewards.scorers.chrf import ChrfScorer


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("the cat sat on the mat", "the cat sat on a mat"),
        ("seven", "seven"),
        ("x", "y z"),
        ("我喜欢喝茶。", "我喜欢喝 green tea。"),
        ("ü", "ü"),
    ],
)
def test_equals_sacrebleu(answer: str, reference: str):
    [score] = ChrfScorer().score([RewardItem("1", "say", answer, reference)])
    assert score.score == sacrebleu.sentence_chrf(answer, [reference]).score / 100


def test_an_empty_answer_is_a_plain_zero_and_a_missing_reference_an_error():
    items = [
        RewardItem("1", "say", "", "seven"),
        RewardItem("2", "say", "x"),
        RewardItem("3", "say", "x", " "),
        RewardItem("4", "say", "x", "x"),
    ]
    scores = ChrfScorer().score(items)
    assert [score.score for score in scores] == [0.0, None, None, pytest.approx(1.0)]
    assert [score.kind for score in scores] == [None, "no_reference", "no_reference", None]


def test_the_signature_is_that_of_sacrebleu():
    assert f"|nc:6|nw:0|space:no|version:{sacrebleu.__version__}" in ChrfScorer().signature
