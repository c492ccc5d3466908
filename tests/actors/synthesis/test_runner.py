from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.records import Draft
from actors.synthesis.runner import Before, Nothing, carry_out
from actors.synthesis.shelf import Shelf
from actors.synthesis.stage import Stage
from protocol.errors import RbaError, UserError

WAIT_S = 10.0


class LostError(RbaError):
    """The teacher has gone away."""


class Writing(Stage):
    """Writes the draft's own name; rejects every seventh; fails at a block."""

    name = "writing"
    reasons = ("seventh",)

    def __init__(self, fails_at: int | None = None, ahead: int = 1) -> None:
        self.fails_at, self.ahead = fails_at, ahead
        self.ran: list[int] = []
        self.open = False

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        assert self.open
        self.ran.append(number)
        if number == self.fails_at:
            raise LostError("gone")
        return [
            msgspec.structs.replace(draft, instruction=draft.id, rejected="writing: seventh" if int(draft.id) % 7 == 6 else "")
            for draft in drafts
        ]

    def __enter__(self) -> Writing:
        self.open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.open = False


class Numbering(Stage):
    """Gives each draft the number of those before it: its result hangs on what was recalled."""

    name = "numbering"

    def __init__(self) -> None:
        self.seen = 0
        self.surveyed: list[str] = []

    def survey(self, drafts: Iterable[Draft]) -> None:
        self.surveyed = [draft.id for draft in drafts]

    def recall(self, drafts: Sequence[Draft]) -> None:
        self.seen += len(drafts)

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        numbered = [
            msgspec.structs.replace(draft, topic=f"{self.seen + place} of {len(self.surveyed)}") for place, draft in enumerate(drafts)
        ]
        self.seen += len(drafts)
        return numbered


def nothing_told(_number: int, _drafts: Sequence[Draft]) -> None: ...


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}


@given(count=st.integers(1, 60), block=st.integers(1, 9), ahead=st.integers(1, 4), failures=st.lists(st.integers(0, 20), max_size=4))
def test_a_stage_that_is_interrupted_leaves_the_same_blocks_as_one_that_never_was(
    tmp_path_factory: pytest.TempPathFactory, count: int, block: int, ahead: int, failures: list[int]
) -> None:
    folders = [tmp_path_factory.mktemp("shelves") for _ in range(2)]
    source = Nothing(count, block)
    for folder, fails_at in ((folders[0], [None]), (folders[1], [*failures, None])):
        for failing in fails_at:
            try:
                carry_out(Writing(failing, ahead), source, Shelf(folder / "writing"), nothing_told)
            except LostError:
                continue
        written = Shelf(folder / "writing")
        assert written.committed == source.blocks
        carry_out(Numbering(), Before(written, source.blocks), Shelf(folder / "numbering"), nothing_told)
    assert content(folders[0]) == content(folders[1])


def test_blocks_before_the_one_that_fails_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(LostError):
        carry_out(Writing(fails_at=2, ahead=2), Nothing(50, 10), shelf, nothing_told)
    assert shelf.committed == 2
    second = Writing()
    carry_out(second, Nothing(50, 10), Shelf(tmp_path), nothing_told)
    assert second.ran == [2, 3, 4]
    assert not second.open


def test_rejected_drafts_stay_on_the_shelf_and_go_no_further(tmp_path: Path) -> None:
    shelf, told = Shelf(tmp_path / "writing"), list[int]()
    carry_out(Writing(), Nothing(20, 10), shelf, lambda number, drafts: told.append(number))
    assert told == [0, 1]
    assert len(list(shelf.every())) == 20
    numbering = Numbering()
    carry_out(numbering, Before(shelf, 2), Shelf(tmp_path / "numbering"), nothing_told)
    assert len(numbering.surveyed) == 18


def test_a_survey_waits_until_the_stage_before_is_complete(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "writing")
    shelf.commit(0, [Draft(id="0")])
    with pytest.raises(UserError, match="the stage before has not finished"):
        carry_out(Numbering(), Before(shelf, 2), Shelf(tmp_path / "numbering"), nothing_told)


def test_a_stage_without_a_survey_works_on_what_is_there(tmp_path: Path) -> None:
    shelf, copied = Shelf(tmp_path / "writing"), Shelf(tmp_path / "copy")
    shelf.commit(0, [Draft(id="0")])
    carry_out(Writing(), Before(shelf, 2), copied, nothing_told)
    assert copied.committed == 1


def test_as_many_blocks_as_it_asks_for_are_in_work_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=WAIT_S)

    class Meeting(Writing):
        def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
            together.wait()
            return super().run(number, drafts)

    shelf = Shelf(tmp_path)
    carry_out(Meeting(ahead=3), Nothing(6, 1), shelf, nothing_told)
    assert [draft.id for draft in shelf.every()] == [f"{number:09d}" for number in range(6)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda drafts: drafts[1:], "returned others"),
        (lambda drafts: drafts[::-1], "returned others"),
        (lambda drafts: [msgspec.structs.replace(each, rejected="writing: a whim") for each in drafts], "none of its reasons"),
        (lambda drafts: [msgspec.structs.replace(each, rejected="other: seventh") for each in drafts], "none of its reasons"),
    ],
)
def test_a_stage_that_breaks_its_word_commits_nothing(tmp_path: Path, change: Any, said: str) -> None:
    class Wrong(Writing):
        def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
            return list(change(list(drafts)))

    shelf = Shelf(tmp_path)
    with pytest.raises(RuntimeError, match=said):
        carry_out(Wrong(), Nothing(5, 5), shelf, nothing_told)
    assert shelf.committed == 0
