from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.records import Draft, Spoken
from actors.synthesis.shelf import Shelf
from protocol.errors import UserError

spoken = st.builds(
    Spoken, speaker=st.text(min_size=1), audio=st.text(), duration_s=st.floats(0, 30), path=st.text(), offset=st.integers(0, 1 << 40)
)
drafts = st.lists(
    st.builds(
        Draft,
        id=st.text(min_size=1),
        instruction=st.text(),
        reference=st.text(),
        utterances=st.lists(spoken),
        rejected=st.sampled_from(["", "filter: long"]),
    ),
    max_size=5,
)


@given(blocks=st.lists(drafts, max_size=4))
def test_what_is_committed_is_read_again(tmp_path_factory: pytest.TempPathFactory, blocks: list[list[Draft]]) -> None:
    folder = tmp_path_factory.mktemp("shelf")
    shelf = Shelf(folder)
    for number, block in enumerate(blocks):
        shelf.commit(number, block)
    again = Shelf(folder)
    assert again.committed == len(blocks)
    assert [again.read(number) for number in range(again.committed)] == blocks
    assert list(again.every()) == [draft for block in blocks for draft in block]
    assert [again.kept(number) for number in range(len(blocks))] == [[draft for draft in block if draft.kept] for block in blocks]


def test_a_half_written_block_is_not_there(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.commit(0, [Draft(id="a")])
    (tmp_path / ".000001.jsonl.partial").write_text('{"id": "b"')
    again = Shelf(tmp_path)
    assert again.committed == 1
    again.commit(1, [Draft(id="c")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.jsonl", "000001.jsonl"]
    assert Shelf(tmp_path).read(1) == [Draft(id="c")]


def test_whoever_looks_while_a_block_is_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, looked = Shelf(tmp_path), list[int]()

    def look(_descriptor: int) -> None:
        looked.append(Shelf(tmp_path).committed)

    monkeypatch.setattr("protocol.dataset.disk.os.fsync", look)
    shelf.commit(0, [Draft(id="a")])
    assert looked[0] == 0
    assert Shelf(tmp_path).read(0) == [Draft(id="a")]


def test_a_gap_is_refused(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for number in range(3):
        shelf.commit(number, [Draft(id=str(number))])
    (tmp_path / "000001.jsonl").unlink()
    with pytest.raises(UserError, match=r"000001\.jsonl: block 1 is missing"):
        Shelf(tmp_path)


@pytest.mark.parametrize(
    "line", ["{", '{"instruction": "no id"}', '{"id": 3}', "", '{"id": "\ud800"}'.encode("utf-8", "surrogatepass")], ids=repr
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str | bytes) -> None:
    Shelf(tmp_path).commit(0, [Draft(id="a")])
    path = tmp_path / "000000.jsonl"
    path.write_bytes(path.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(UserError, match=r"000000\.jsonl, line 2: no draft"):
        Shelf(tmp_path).read(0)


def test_a_full_disk_leaves_nothing_half_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    shelf.commit(0, [Draft(id="a")])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("protocol.dataset.disk.os.fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            shelf.commit(1, [Draft(id="b")])
    assert [path.name for path in tmp_path.iterdir()] == ["000000.jsonl"]
    shelf.commit(1, [Draft(id="b")])
    assert Shelf(tmp_path).committed == 2


def test_equal_drafts_give_equal_bytes(tmp_path: Path) -> None:
    block = [Draft(id="a", origin={"seed": 3, "model": "m"}), Draft(id="b", rejected="filter: long")]
    for name in ("one", "two"):
        Shelf(tmp_path / name).commit(0, [msgspec.structs.replace(draft) for draft in block])
    assert (tmp_path / "one/000000.jsonl").read_bytes() == (tmp_path / "two/000000.jsonl").read_bytes()


def test_what_is_left_of_a_shelf_that_is_being_cleared_has_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Shelf(tmp_path / "splits").commit(number, [Draft(id=str(number))])
    left = list[int]()
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path: (unlink(path), left.append(Shelf(path.parent).committed)))
    Shelf(tmp_path / "splits").clear()
    assert left == [3, 2, 1, 0]
    assert list(tmp_path.iterdir()) == []
    Shelf(tmp_path / "splits").clear()
