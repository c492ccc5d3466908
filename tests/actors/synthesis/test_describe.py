from __future__ import annotations

import json
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from actors.synthesis.describe import PAPER_DIFFICULTIES, PAPER_TOPICS, StageCount, as_dict, describe, tables
from actors.synthesis.page import page
from actors.synthesis.records import Draft, Spoken

VOICES = [Spoken(speaker="anna", audio="xxh128:00", duration_s=1800.0), Spoken(speaker="ben", audio="xxh128:01", duration_s=1800.0)]
DRAFTS = [
    Draft(id="a", instruction="one two three", reference="one", topic="Planning", difficulty="hard", split="train", utterances=VOICES),
    Draft(id="b", instruction="one", reference="one two three", topic="Planning", difficulty="easy", split="test"),
    Draft(id="c", instruction="one two", reference="one two", topic="Information Seeking", difficulty="hard", split="train"),
    Draft(id="d", instruction="one two", reference="one two", topic="Cats & <dogs>", split="train"),
    Draft(id="e", rejected="tags: topic", detail="Coding"),
    Draft(id="f", rejected="filter: code", detail="`x`"),
    Draft(id="g", rejected="filter: too long"),
    Draft(id="h", rejected="filter: too long"),
]


def test_counts() -> None:
    found = describe(iter(DRAFTS))
    assert (found.drafts, found.kept) == (8, 4)
    assert list(found.topic_counts.items()) == [("Information Seeking", 1), ("Planning", 2), ("Cats & <dogs>", 1)]
    assert found.topics["Planning"] == {"easy": 1, "hard": 1}
    assert found.difficulty_counts == {"easy": 1, "hard": 2, "(none)": 1}
    assert found.splits["Planning"] == {"train": 1, "test": 1}
    assert found.stages == [StageCount("filter", 8, {"too long": 2, "code": 1}), StageCount("tags", 5, {"topic": 1})]
    assert found.stages[-1].kept == found.kept
    assert (found.instruction_words, found.reference_words) == (2.0, 2.0)
    assert (found.utterances, found.voices, found.spoken_hours) == (2, 2, 1.0)
    assert json.loads(json.dumps(as_dict(found)))["topic_counts"]["Planning"] == 2


def test_the_papers_shares_are_whole() -> None:
    assert round(sum(PAPER_TOPICS.values()), 6) == round(sum(PAPER_DIFFICULTIES.values()), 6) == 100


def test_tables_name_everything() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(tables(describe(DRAFTS)))
    shown = captured.get()
    for text in ("Planning", "50.0", "4.2", "train", "test", "too long 2, code 1", "hard", "5.2"):
        assert text in shown
    assert "validation" not in shown


class Checked(HTMLParser):
    """Every element is closed by its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta"}:
            self.open.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}  # nothing from outside

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(html: str) -> str:
    parser = Checked()
    parser.feed(html)
    assert not parser.open
    return parser.text


def test_a_page_is_whole_and_escaped() -> None:
    text = checked(page(describe(DRAFTS), "<my set>"))
    for part in ("<my set>", "Cats & <dogs>", "the paper: 4.2 %", "too long", "hours of speech"):
        assert part in text


DRAFT = st.builds(
    lambda topic, difficulty, split, rejected: Draft(id="x", topic=topic, difficulty=difficulty, split=split, rejected=rejected),
    st.text(max_size=30), st.text(max_size=5), st.text(max_size=5), st.one_of(st.just(""), st.text(max_size=9)),
)  # fmt: skip


@given(st.lists(DRAFT, max_size=20))
def test_any_drafts_can_be_described(drafts: list[Draft]) -> None:
    found = describe(drafts)
    assert sum(found.topic_counts.values()) == found.kept == sum(draft.kept for draft in drafts)
    assert found.drafts - sum(sum(stage.rejected.values()) for stage in found.stages) == found.kept
    checked(page(found, "x"))
    with Console().capture():
        Console().print(tables(found))
