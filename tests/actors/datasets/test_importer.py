from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.datasets import importer
from actors.datasets.records import Clip, Record
from protocol.errors import UserError
from protocol.messages import Utterance
from tests.actors.datasets.sounds import encoded, imported, noise, said


def record(number: int, *, key: str = "", clip: Clip | None = None, **values: Any) -> Record:
    return Record(f"source, line {number}", values, clip or Clip(encoded(noise(number))), key)


def test_rows_of_one_group_id_become_one_group_wherever_they_stand(tmp_path: Path) -> None:
    rows = [
        record(1, group="g", text="hi", reference="hello", speaker="anna"),
        record(2, group="h", text="bye", reference="goodbye"),
        record(3, group="g", text="hi", reference="hello", speaker="bob"),
    ]
    data, done = imported(rows, tmp_path / "out")
    assert [(group.group_id, [each.speaker for each in group.utterances]) for group in data.groups] == [
        ("g", ["anna", "bob"]),
        ("h", ["voice-1"]),
    ]
    assert (done.groups, done.utterances) == (2, 3)


def test_rows_of_the_same_texts_become_one_group_if_that_is_wanted(tmp_path: Path) -> None:
    rows = [record(number, text=text, reference=text.upper()) for number, text in enumerate(["hi", "bye", "hi"])]
    by_text, _ = imported(rows, tmp_path / "text", group_by="text")
    by_id, _ = imported(rows, tmp_path / "id")
    assert [len(group.utterances) for group in by_text.groups] == [2, 1]
    assert [group.group_id for group in by_id.groups] == ["row-00000001", "row-00000002", "row-00000003"]


def test_the_source_s_own_keys_name_groups(tmp_path: Path) -> None:
    data, _ = imported([record(1, key="utt/9", text="hi", reference="hello")], tmp_path / "out")
    assert data.groups[0].group_id == "utt/9"


def test_rows_without_audio_are_plain_text(tmp_path: Path) -> None:
    data, _ = imported([Record("line 1", {"text": "hi", "reference": "hello"}, None)], tmp_path / "out")
    assert data.groups[0].utterances == [Utterance("text")]


def test_a_group_that_contradicts_itself_names_both_places(tmp_path: Path) -> None:
    rows = [record(1, group="g", text="hi", reference="a"), record(2, group="g", text="hi", reference="b")]
    with pytest.raises(UserError, match="source, line 2: the group 'g' has another reference than in source, line 1"):
        imported(rows, tmp_path / "out")


def test_an_utterance_that_stands_twice_is_taken_once(tmp_path: Path) -> None:
    data, done = imported([record(1, group="g", text="hi", reference="a", speaker="x")] * 2, tmp_path / "out")
    assert len(data.groups[0].utterances) == 1
    assert done.dropped == {"the same utterance twice": 1}


def test_refused_rows_end_the_import_or_are_counted(tmp_path: Path) -> None:
    rows = [
        record(1, text="hi", reference="a"),
        record(2, text="hi", reference="a", clip=Clip(encoded(noise(2, 17_000)))),
        record(3, text="hi", reference=""),
        record(4, text="hi", reference="a", clip=Clip(b"junk")),
    ]
    for reason, line in (("long", 2), ("empty", 3), ("damaged", 4)):
        others = {"long", "empty", "damaged"} - {reason}
        with pytest.raises(UserError, match=f"line {line}: .*--drop {reason}|line {line}: .*decoded"):
            imported(rows, tmp_path / reason, max_audio_s=1.0, drop=others)
        assert not (tmp_path / reason).exists()
    _, done = imported(rows, tmp_path / "out", max_audio_s=1.0, drop={"long", "empty", "damaged"})
    assert done.told() == (
        "1 groups, 1 utterances, 0.00 h of audio; 1 clips kept as they were; "
        "1 records left out (damaged); 1 records left out (empty); 1 records left out (long)"
    )


def test_shards_end_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "SHARD_BYTES", 4000)
    data, _ = imported([record(number, text=str(number), reference="a") for number in range(7)], tmp_path / "out")
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 4
    assert [spoken for _, spoken in said(data)] == [[("voice-1", noise(number).tobytes())] for number in range(7)]


def test_the_first_mistake_is_the_one_that_is_told(tmp_path: Path) -> None:
    """Records are converted while later ones are read."""

    def rows() -> Iterator[Record]:
        yield record(1, text="hi", reference="a")
        yield record(2, text="hi", reference="a", clip=Clip(b"junk"))
        raise UserError("torn")

    with pytest.raises(UserError, match="line 2: no audio"):
        imported(rows(), tmp_path / "out")
    with pytest.raises(UserError, match="torn"):
        imported(rows(), tmp_path / "out", drop={"damaged"})


def test_nothing_is_there_before_all_of_it_is(tmp_path: Path) -> None:
    def rows() -> Iterator[Record]:
        yield record(1, text="hi", reference="a")
        assert not (tmp_path / "out").exists()
        raise UserError("torn")

    with pytest.raises(UserError, match="torn"):
        imported(rows(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_the_data_set_is_left(tmp_path: Path) -> None:
    imported([record(1, text="hi", reference="a")], tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert "gathering.sqlite" not in {path.name for path in (tmp_path / "new" / "out").iterdir()}


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="there already"):
        imported([record(1, text="hi", reference="a")], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_source_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to import"):
        imported([], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
