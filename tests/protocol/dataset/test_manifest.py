from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.dataset import DataSet, Location, ManifestWriter, audio_hash, open_mixture
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance

AUDIO = audio_hash(b"four")


def line(group_id: str = "g1", **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "group_id": group_id,
        "instruction": "what is two plus two",
        "reference": "four",
        "utterances": [{"speaker": "anna", "audio": AUDIO, "path": "audio/four.flac", "duration_s": 1.5}, {"speaker": "text"}],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def manifest(folder: Path, *lines: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines) + "\n")
    return path


def test_groups_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = DataSet.open(manifest(tmp_path, line("b"), "", line("a", topic="sums", language="de", answers=["vier"], prompt="Say:")))
    assert [group.group_id for group in data.groups] == ["b", "a"]
    first, second = data.groups
    assert type(first) is InstructionGroup
    assert first.utterances == [Utterance("anna", AUDIO, 1.5), Utterance("text")]
    assert (second.topic, second.language, second.answers, second.prompt) == ("sums", "de", ["vier"], "Say:")


def test_audio_is_found_by_its_hash_beside_the_manifest(tmp_path: Path) -> None:
    data = DataSet.open(manifest(tmp_path, line()))
    assert data.location(AUDIO) == Location("audio/four.flac")
    with pytest.raises(UserError, match="xxh128:unknown"):
        data.read_audio("xxh128:unknown")


def test_further_fields_are_ignored(tmp_path: Path) -> None:
    assert len(DataSet.open(manifest(tmp_path, line(difficulty=3))).groups) == 1


@pytest.mark.parametrize(
    ("damaged", "what"),
    [
        ('{"group_id": "g2"', "JSON"),
        ("hello", "JSON"),
        ("[]", "object"),
        (line("g2", reference=...), "reference"),
        (line("g2", reference=7), r"\$\.reference"),
        (line("g2", reference="  "), "reference is empty"),
        (line("g2", utterances=[]), "no utterance"),
        (line("g2", utterances=[{"speaker": "anna", "audio": AUDIO}]), "path"),
        (line("g2", utterances=[{"audio": AUDIO, "path": "a.flac"}]), "speaker"),
        (line("g2", utterances=[{"speaker": "anna", "audio": "four.flac", "path": "a.flac"}]), "four.flac"),
        (line("g2", utterances=[{"speaker": "anna", "audio": AUDIO, "path": "a.flac", "duration_s": "long"}]), "duration_s"),
        (line("g2", utterances=[{"speaker": "text"}], instruction=" "), "instruction is empty"),
        (line("g1"), "line 1"),
    ],
)
def test_a_damaged_line_is_the_users_error_with_file_and_line(tmp_path: Path, damaged: Any, what: str) -> None:
    path = manifest(tmp_path, line("g1"), "", damaged)
    with pytest.raises(UserError, match=what) as caught:
        DataSet.open(path)
    assert caught.value.where == f"{path}, line 3"
    assert caught.value.fix


def test_bytes_that_are_no_text_are_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(line()).encode().replace(b"four", b"\xff\xfe", 1) + b"\n")
    with pytest.raises(UserError, match="line 1"):
        DataSet.open(path)


def test_a_missing_or_empty_manifest_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        DataSet.open(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="no instruction group"):
        DataSet.open(manifest(tmp_path))


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(line(reference="one\u2028two\u0085three"), ensure_ascii=False) + "\n", encoding="utf-8")
    assert DataSet.open(path).groups[0].reference == "one\u2028two\u0085three"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "made" / "train.jsonl"
    with ManifestWriter(path) as writer:
        audio = writer.add_audio(b"four", ".wav")
        assert writer.add_audio(b"four", ".wav") == audio == AUDIO
        group = InstructionGroup(
            "g1", "was ist zwei plus zwei", "vier €", [Utterance("anna", audio, 1.5), Utterance("text")], language="de"
        )
        writer.add(group)
        assert not path.exists()
    data = DataSet.open(path)
    assert list(data.groups) == [group]
    assert data.read_audio(audio) == b"four"
    assert len(list((path.parent / "audio").rglob("*.wav"))) == 1
    moved = path.parent.rename(tmp_path / "moved") / "train.jsonl"
    assert DataSet.open(moved).read_audio(audio) == b"four"
    assert DataSet.open(moved).digest == data.digest


def test_a_writer_that_fails_leaves_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    group = InstructionGroup("g1", "i", "r", [Utterance("anna", "xxh128:never added")])
    with pytest.raises(KeyError), ManifestWriter(path) as writer:
        writer.add(group)
    assert list(tmp_path.iterdir()) == []


def test_sets_that_are_mixed_share_no_ids(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        paths.append(manifest(tmp_path / name, line("a"), line("b")))
    one, two, three = open_mixture(paths[0], paths[1:])
    assert [group.group_id for data in (one, two, three) for group in data.groups] == ["a", "b", "mix-1/a", "mix-1/b", "mix-2/a", "mix-2/b"]
    assert two.groups[1:][0].group_id == "mix-1/b"
    assert two.groups[0].utterances == one.groups[0].utterances
