"""A folder behind a URL: what appears there, and what is said of one that cannot be used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFile
from fsspec.registry import known_implementations

from protocol import destination
from protocol.destination import Destination, patiently
from protocol.errors import RbaError, UserError
from tests.protocol import stores
from tests.protocol.stores import StoreError

KEY = "learner.checkpoint_copies"
URLS = ["file://{}/far", "memory://far/deep", "bucket://far", "disk://{}/far"]

pytestmark = pytest.mark.usefixtures("known_stores")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing://bucket/folder", "nothing:// cannot be used: Protocol not known"),
        ("/mnt/copies", "this is no URL"),
        ("b2://bucket", "library for b2:// is missing"),
        ("http://127.0.0.1:1/copies", "cannot be written to and read"),
        ("file://{}/file/copies", "cannot be written to and read: NotADirectoryError"),
    ],
)
def test_a_destination_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setitem(known_implementations, "b2", {"class": "no_such.FileSystem", "err": "install b2fs"})
    with pytest.raises(UserError, match=message) as raised:
        Destination(url.format(tmp_path), KEY).check()
    assert str(raised.value).startswith("learner.checkpoint_copies: ")
    assert raised.value.fix


def test_a_destination_that_does_not_answer_is_told(tmp_path: Path) -> None:
    stores.FAULTS.gate = threading.Event()
    with pytest.raises(UserError, match="has not answered within"):
        Destination("bucket://copies", KEY).check(limit_s=0.05)
    stores.FAULTS.gate.set()


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    Destination(f"file://{tmp_path}/new/folder", KEY).check()
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    Destination(f"file://{tmp_path}/new", KEY).refuse_occupied("folder")
    (tmp_path / "new" / "folder" / "step-1").mkdir()
    with pytest.raises(UserError, match="another run"):
        Destination(f"file://{tmp_path}/new", KEY).refuse_occupied("folder")


@pytest.mark.parametrize("url", URLS)
def test_what_is_put_is_listed_and_fetched_and_nothing_else_is_left(tmp_path: Path, url: str) -> None:
    there = Destination(url.format(tmp_path), KEY)
    assert there.sizes() == {}
    (tmp_path / "shard").write_bytes(b"12345")
    there.put(tmp_path / "shard", "shards/0.tar")
    there.put_content(b"{}", "dataset.json")
    assert there.sizes() == {"shards/0.tar": 5, "dataset.json": 2}
    assert there.sizes("shards") == {"0.tar": 5}
    there.fetch("shards/0.tar", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"12345"
    assert there.content("none") is None


@pytest.mark.parametrize("url", URLS)
def test_what_is_there_is_not_created_again(tmp_path: Path, url: str) -> None:
    there = Destination(url.format(tmp_path), KEY)
    assert [there.create(content, "claim") for content in (b"one", b"other")] == [True, False]
    assert there.content("claim") == b"one"


def test_a_file_is_replaced_where_renaming_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mv = stores.Disk.mv

    def hesitant(self: stores.Disk, path1: str, path2: str) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        mv(self, path1, path2)

    monkeypatch.setattr(stores.Disk, "mv", hesitant)
    there = Destination(f"disk://{tmp_path}/far", KEY)
    for content in (b"one", b"other"):
        there.put_content(content, "dataset.json")
        assert there.content("dataset.json") == content


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mv = stores.Disk.mv

    def failing(self: stores.Disk, path1: str, path2: str) -> None:
        if self.exists(path2) or (path1.endswith(destination.PARTIAL) and ".old" not in path1 and path2.endswith("dataset.json")):
            raise PermissionError(path2)
        mv(self, path1, path2)

    there = Destination(f"disk://{tmp_path}/far", KEY)
    there.put_content(b"one", "dataset.json")
    monkeypatch.setattr(stores.Disk, "mv", failing)
    with pytest.raises(OSError):
        there.put_content(b"other", "dataset.json")
    assert there.content("dataset.json") == b"one"


def test_a_library_that_cannot_create_writes_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe_file(self: stores.Bucket, path: str, value: bytes) -> None:
        self.store[self._strip_protocol(path)] = MemoryFile(self, path, value)

    monkeypatch.setattr(stores.Bucket, "pipe_file", pipe_file)
    there = Destination("bucket://far", KEY)
    assert [there.create(content, "claim") for content in (b"one", b"other")] == [True, False]
    assert there.content("claim") == b"one"


@pytest.mark.parametrize("scheme", ["bucket", "disk"])
def test_a_file_whose_writing_fails_is_not_there(tmp_path: Path, scheme: str) -> None:
    there = Destination(f"{scheme}://{tmp_path}/far", KEY)
    (tmp_path / "shard").write_bytes(b"12345")
    stores.FAULTS.fails = lambda _: True
    for write in (lambda: there.put(tmp_path / "shard", "0.tar"), lambda: there.put_content(b"12345", "0.tar")):
        with pytest.raises(StoreError):
            write()
        assert there.content("0.tar") is None
    stores.FAULTS.fails = lambda _: False
    there.put(tmp_path / "shard", "0.tar")
    assert there.content("0.tar") == b"12345"


def test_patience_is_for_stores_and_not_for_rba_itself() -> None:
    tries: list[int] = []

    def failing(error: Exception) -> None:
        tries.append(1)
        raise error

    for error, count in ((StoreError("gone"), 3), (RbaError("no"), 1)):
        tries.clear()
        with pytest.raises(type(error)):
            patiently(lambda error=error: failing(error), attempts=3, first_wait_s=0.001)
        assert len(tries) == count
