from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from protocol.dataset import DataSet
from protocol.dataset.inspection import inspect
from protocol.errors import UserError
from tests.protocol.dataset.making import write


@pytest.fixture
def far(tmp_path: Path) -> Iterator[str]:
    """A folder of fsspec's memory with a finished data set."""
    write(tmp_path / "data")
    url = f"memory://{uuid.uuid4().hex}"
    files, root = fsspec.url_to_fs(url)
    files.put(str(tmp_path / "data"), root, recursive=True)
    yield url
    files.rm(root, recursive=True)


def test_a_data_set_is_read_where_a_url_says(far: str, tmp_path: Path) -> None:
    near = DataSet.open(tmp_path / "data" / "train.jsonl")
    for data in (DataSet.open(f"{far}/train.jsonl"), DataSet.open(f"file://{tmp_path}/data/train.jsonl")):
        assert list(data.groups) == list(near.groups)
        assert data.digest == near.digest
        assert list(data.spoken()) == list(near.spoken())
        for group in data.groups:
            for one in group.utterances:
                assert one.audio is None or data.read_audio(one.audio) == near.read_audio(one.audio)


def test_its_audio_is_read_by_range(far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSet.open(f"{far}/train.jsonl")
    asked = []
    files = type(fsspec.filesystem("memory"))
    cat_file = files.cat_file
    monkeypatch.setattr(files, "cat_file", lambda self, *range_: asked.append(range_) or cat_file(self, *range_))
    audio = data.groups[1].utterances[1].audio
    location = data.location(audio)
    data.samples(audio)
    assert [(start, end) for _, start, end in asked] == [(location.offset, location.offset + location.size_bytes)]
    asked.clear()
    assert len(list(data.spoken())) == 3
    assert len(asked) == 2  # one for each shard


def test_damage_far_away_is_the_users_error(far: str) -> None:
    files, root = fsspec.url_to_fs(far)
    with pytest.raises(UserError, match="cannot be read") as caught:
        DataSet.open(f"{far}/none.jsonl")
    assert caught.value.where == f"{far}/none.jsonl"
    data = DataSet.open(f"{far}/train.jsonl")
    shard = f"{root}/shards/train-0.tar"
    files.pipe_file(shard, files.cat_file(shard)[:700])
    with pytest.raises(UserError, match="ends after 188") as caught:
        data.read_audio(data.groups[0].utterances[1].audio)
    assert f"{far}/shards/train-0.tar" in caught.value.where
    files.rm(shard)
    with pytest.raises(UserError, match="cannot be read"):
        data.read_audio(data.groups[0].utterances[1].audio)
    assert any("cannot be read" in finding.what for finding in inspect(far).findings)


def test_a_whole_data_set_far_away_is_whole(far: str) -> None:
    found = inspect(far, hear=True)
    assert not found.findings
    assert [one.groups for one in found.manifests] == [3]


def test_a_folder_of_this_machine_may_be_named_by_its_url(tmp_path: Path) -> None:
    write(tmp_path / "data")
    assert [one.name for one in inspect(f"file://{tmp_path}/data").manifests] == ["train.jsonl"]


@pytest.mark.parametrize("url", ["nothing://bucket/train.jsonl", "abfs://bucket/train.jsonl"])
def test_a_scheme_that_cannot_be_used_is_the_users_error(url: str) -> None:
    with pytest.raises(UserError, match=url.partition(":")[0]):
        DataSet.open(url)
