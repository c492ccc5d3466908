from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.audio import audio_hash
from protocol.dataset import ShardWriter
from protocol.errors import UserError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def shard(path: Path, *contents: bytes) -> Path:
    with ShardWriter(path) as writer:
        for content in contents:
            writer.add(content)
    return path


@settings(deadline=None)
@given(contents=st.lists(st.binary(max_size=1500), max_size=6))
def test_what_was_added_lies_where_it_was_said_and_tar_reads_it(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    with ShardWriter(path) as writer:
        stored = [writer.add(content) for content in contents]
    raw = path.read_bytes()
    for content, (audio, offset, size_bytes) in zip(contents, stored, strict=True):
        assert raw[offset : offset + size_bytes] == content
        assert audio == audio_hash(content)
    with tarfile.open(path) as read:
        found = {member.name: read.extractfile(member).read() for member in read.getmembers()}
    assert found == {f"{audio_hash(content).removeprefix('xxh128:')}.flac": content for content in contents}


def test_the_same_audio_makes_the_same_bytes(tmp_path: Path) -> None:
    one, other = shard(tmp_path / "a.tar", b"one", b"two"), shard(tmp_path / "b.tar", b"one", b"two", b"one")
    assert one.read_bytes() == other.read_bytes()


def test_the_systems_tar_lists_it_without_a_word(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", b"one", b"two" * 400)
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert len(listed.stdout.split()) == 2
    assert not listed.stderr


def test_it_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "0.tar"
    with ShardWriter(path) as writer:
        writer.add(b"one")
        assert not path.exists()
    assert path.exists()
    assert names(tmp_path / "shards") == ["0.tar"]


def test_a_shard_that_is_not_finished_leaves_nothing_and_the_old_one(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", b"old")
    before = path.read_bytes()
    with pytest.raises(TypeError), ShardWriter(path) as writer:
        writer.add("no bytes")
    assert path.read_bytes() == before
    assert names(tmp_path) == ["0.tar"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        shard(tmp_path / "0.tar", b"one")
    assert names(tmp_path) == []


def test_a_file_that_may_not_grow_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib, signal; from protocol.dataset import ShardWriter; from protocol.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with ShardWriter(pathlib.Path(sys.argv[1])) as writer:\n"
        "        for number in range(100): writer.add(bytes([number]) * 10_000)\n"
        "except UserError as error: print(error.what)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "0.tar"], capture_output=True, text=True, check=True)
    assert "cannot be written" in told.stdout
    assert names(tmp_path) == []
