from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from protocol.audio import audio_hash
from protocol.dataset import DataSet, DataSetWriter
from protocol.errors import UserError
from tests.protocol.dataset.making import write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_a_shard_cut_off_at_any_byte_of_its_audio_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, groups=2)
    data = DataSet.open(path)
    shard = tmp_path / "shards" / "train-0.tar"
    content, last = shard.read_bytes(), data.groups[1].utterances[2].audio
    location = data.location(last)
    for size in range(location.offset + location.size_bytes):
        shard.write_bytes(content[:size])
        with pytest.raises(UserError, match="ends after"):
            data.read_audio(last)
        with pytest.raises(UserError, match="ends after"):
            list(data.spoken())
    shard.write_bytes(content[: location.offset + location.size_bytes])
    assert audio_hash(data.read_audio(last)) == last


def test_a_changed_recording_is_noticed(tmp_path: Path) -> None:
    data = DataSet.open(write(tmp_path))
    name = data.groups[0].utterances[1].audio
    shard = tmp_path / "shards" / "train-0.tar"
    content = bytearray(shard.read_bytes())
    content[data.location(name).offset + 60] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=name):
        data.samples(name)


def test_an_edited_manifest_is_recognised(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("reference 1", "reference 2"))
    with pytest.raises(UserError, match="changed since it was finished"):
        DataSet.open(path)
    (tmp_path / "dataset.json").unlink()
    assert DataSet.open(path).groups[1].reference == "reference 2"


def test_a_manifest_that_changes_under_its_reader_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = DataSet.open(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"reference 1", b"reference 2"))
    assert data.groups[0].group_id == "g0"
    with pytest.raises(UserError, match="changed since it was opened"):
        data.groups[1]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"format": "rba-dataset", "version": [2, 0]}, "of version 2.0"),
        ({"format": "rba-dataset", "version": [2, 0], "manifests": "otherwise"}, "of version 2.0"),
        ({"format": "others", "version": [1, 0]}, "others"),
        ({"format": "rba-dataset", "version": [1, 0], "manifests": 3}, "manifests"),
        ("{", "truncated"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused(tmp_path: Path, content: object, what: str) -> None:
    path = write(tmp_path)
    (tmp_path / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=what):
        DataSet.open(path)
    with pytest.raises(UserError, match=what):
        DataSetWriter(tmp_path)


def test_a_newer_minor_version_is_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    described = tmp_path / "dataset.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "version": [1, 9], "more": 1}))
    assert len(DataSet.open(path).groups) == 3
