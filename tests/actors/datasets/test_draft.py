"""Data sets that are written behind a URL, as users call it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest

from actors.datasets.draft import draft
from ops import cli
from protocol import destination
from protocol.claim import NAME as CLAIM
from protocol.claim import Claim, Holder
from protocol.dataset import DataSet
from protocol.destination import Destination
from protocol.errors import UserError
from tests.actors.datasets.sounds import said, small
from tests.protocol import stores

pytestmark = pytest.mark.usefixtures("known_stores")
FILES = ("shards/00000.tar", "train.jsonl", "dataset.json")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(destination, "ATTEMPTS", 2)


def rba(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rba", "dataset", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def write(url: str, fails: Callable[[], None] = lambda: None) -> None:
    with draft(url) as folder:
        for name in FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        fails()


@pytest.mark.parametrize("url", ["memory://far/set", "bucket://far/set", "disk://{}/far", "file://{}/far"])
def test_out_and_in_again_behind_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    url = url.format(tmp_path)
    before = small(tmp_path / "native")
    assert rba(monkeypatch, "export", tmp_path / "native", tmp_path / "swift", "--format", "swift") == 0
    assert rba(monkeypatch, "import", tmp_path / "swift" / "data.jsonl", url) == 0
    assert f"{url}: 2 groups, 4 utterances" in capsys.readouterr().out
    assert rba(monkeypatch, "check", "--audio", url) == 0
    assert said(DataSet.open(f"{url}/manifest.jsonl")) == said(before)
    capsys.readouterr()
    for out in (url, url):
        assert rba(monkeypatch, "import", tmp_path / "swift" / "data.jsonl", out) == 2
        assert "it is there already" in capsys.readouterr().err


def test_other_formats_go_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "native")
    for kind in ("hf", "hf-disk", "swift", "shar", "voicebench"):
        assert rba(monkeypatch, "export", tmp_path / "native", f"memory://{kind}", "--format", kind) == 0
        names = Destination(f"memory://{kind}", "OUT").sizes()
        assert len(names) >= 1
        assert not [name for name in names if name.rpartition("/")[2].startswith(".")]
    lines = Destination("memory://swift", "OUT").content("data.jsonl") or b""
    assert b'"memory://swift/audio/' in lines


def test_what_names_others_comes_last(tmp_path: Path) -> None:
    write("bucket://far")
    assert [name.removeprefix("/far/") for name in stores.FAULTS.files if name.endswith(FILES)] == list(FILES)


@pytest.mark.parametrize("scheme", ["bucket", "disk"])
def test_whatever_moment_it_dies_at_the_next_one_begins_anew(tmp_path: Path, scheme: str) -> None:
    for last_breath in count(3):
        stores.renew()
        url = f"{scheme}://{tmp_path}/{last_breath}"
        there = Destination(url, "OUT")
        stores.FAULTS.fails = last_breath.__lt__
        with suppress(UserError):
            write(url)
        if stores.FAULTS.changes <= last_breath:
            break
        stores.FAULTS.fails = lambda _: False
        whole = there.content("dataset.json") is not None
        if whole:
            assert {there.content(name) for name in FILES} == {name.encode() for name in FILES}
        if there.content(CLAIM) is not None:
            there.put_content(stale("draft"), CLAIM)  # this process still lives
            with pytest.raises(UserError, match="it is there already") if whole else nullcontext():
                write(url)
        assert {name for name in there.sizes() if not name.endswith(".partial")} in ({*FILES}, set())
    assert last_breath > 6


def stale(purpose: str) -> bytes:
    """The claim of a writer that was killed long ago."""
    return msgspec.json.encode(Holder("process 7 on elsewhere", "elsewhere", 7, "token", 0.0, purpose))


def test_what_a_killed_synthesis_has_left_is_not_cleared_away() -> None:
    there = Destination("bucket://far", "OUT")
    there.put_content(b"speech", "shards/0.tar")
    there.put_content(stale(""), CLAIM)
    with pytest.raises(UserError, match="it is there already"):
        write("bucket://far")
    assert there.content("shards/0.tar") == b"speech"


def test_an_error_leaves_nothing_there(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no such column", fix="name another")

    with pytest.raises(UserError, match="no such column"):
        write("bucket://far", fail)
    assert Destination("bucket://far", "OUT").sizes() == {}
    write("bucket://far")


def test_two_writers_of_one_data_set_are_told(tmp_path: Path) -> None:
    with Claim(Destination("memory://far", "OUT")), pytest.raises(UserError, match=r"OUT: memory://far: process \d+ on .* writes this"):
        write("memory://far")
