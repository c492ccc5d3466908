"""A synthesis whose data set lies behind a URL."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.synthesis import mirror
from actors.synthesis.main import STAGES, Synthesis
from actors.synthesis.mirror import Mirror
from actors.synthesis.records import Draft
from actors.synthesis.teacher import shared
from protocol import destination
from protocol.claim import NAME as CLAIM
from protocol.dataset import DataSet
from protocol.dataset.inspection import inspect
from protocol.destination import Destination
from protocol.errors import UserError
from tests.actors.synthesis.scripted_run import Silent, config, scripted
from tests.protocol import stores

pytestmark = pytest.mark.usefixtures("known_stores")
BEFORE_SPEECH = STAGES[: STAGES.index("speech")]
DEATHS = 5


@pytest.fixture(autouse=True)
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "open_teacher", scripted)
    monkeypatch.setattr(destination, "FIRST_WAIT_S", 0.001)


def synthesis(work: Path, url: str, count: int = 20) -> Synthesis:
    instructions = {"count": count, "source": "seeded_chat", "max_tokens": 9}
    return Synthesis(config(work, directory=url, work_directory=str(work), instructions=instructions))


def lasting(name: str) -> bool:
    """True for what is the same however often a synthesis is interrupted, and wherever it is made."""
    return not name.startswith("logs") and not name.endswith((".partial", "settings.yaml")) and name not in {mirror.IDENTITY, CLAIM}


def made(folder: Path) -> dict[str, bytes]:
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return {name: path.read_bytes() for name, path in names.items() if lasting(name)}


def far(url: str) -> dict[str, bytes]:
    there = Destination(f"{url}/scripted", "directory")
    return {name: there.content(name) or b"" for name in there.sizes() if lasting(name)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """On a disk, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shared, "open_teacher", scripted)
        synthesis(folder, str(folder)).run(STAGES, Silent())
    return made(folder / "scripted")


@pytest.mark.parametrize("url", ["memory://far", "bucket://far/deep", "file://{}/far", "disk://{}/far"])
def test_all_of_it_is_behind_the_url_whatever_kind_of_store_it_is(tmp_path: Path, whole: dict[str, bytes], url: str) -> None:
    url = url.format(tmp_path)
    synthesis(tmp_path / "work", url).run(STAGES, Silent())
    assert made(tmp_path / "work" / "scripted") == whole
    assert far(url) == whole
    found = inspect(f"{url}/scripted", hear=True)
    assert not found.findings
    assert sum(one.groups for one in found.manifests) > 5
    assert not any(one.growing for one in found.manifests)


def test_another_machine_goes_on(tmp_path: Path, whole: dict[str, bytes]) -> None:
    synthesis(tmp_path / "one", "memory://far").run(BEFORE_SPEECH, Silent())
    other = synthesis(tmp_path / "other", "memory://far")
    other.look()
    assert other.progress()["splits"] == (3, 3)
    other.run(STAGES, Silent())
    assert far("memory://far") == whole
    more = synthesis(tmp_path / "third", "memory://far", count=40)  # which has never seen the audio
    more.run(STAGES, Silent())
    assert not inspect("memory://far/scripted", hear=True).findings
    assert len(DataSet.open("memory://far/scripted/train.jsonl").groups) > whole["train.jsonl"].count(b"\n")


def test_what_was_made_on_a_disk_is_copied_when_a_url_is_named(tmp_path: Path, whole: dict[str, bytes]) -> None:
    synthesis(tmp_path, str(tmp_path)).run(STAGES, Silent())
    synthesis(tmp_path, "memory://far").run(STAGES, Silent())
    assert far("memory://far") == whole


def test_a_stage_that_is_made_again_is_made_again_behind_the_url(tmp_path: Path, whole: dict[str, bytes]) -> None:
    synthesis(tmp_path / "one", "memory://far").run(STAGES, Silent())
    other = synthesis(tmp_path / "other", "memory://far")
    other.run(BEFORE_SPEECH, Silent(), redo="splits")
    assert {name for name in far("memory://far") if name.startswith("stages/speech") or "/" not in name} == set()
    other.run(STAGES, Silent())
    assert far("memory://far") == whole


class Looking(Silent):
    """Opens what is there after each block of the last stage."""

    def __init__(self, url: str) -> None:
        self.url, self.seen = url, list[int]()

    def block(self, stage: str, drafts: Sequence[Draft]) -> None:
        if stage == "dataset":
            data = DataSet.open(f"{self.url}/scripted/train.jsonl")
            assert data.growing == (len(self.seen) < 2)
            self.seen.append(len(list(data.spoken())))


def test_blocks_that_another_machine_has_thrown_away_do_not_come_back(tmp_path: Path) -> None:
    first, other = synthesis(tmp_path / "one", "memory://far"), synthesis(tmp_path / "other", "memory://far")
    first.run(STAGES, Silent())
    other.run(BEFORE_SPEECH, Silent(), redo="splits")
    before = far("memory://far")
    with pytest.raises(UserError, match="after --redo elsewhere"):
        synthesis(tmp_path / "one", "memory://far").run(STAGES, Silent())
    assert far("memory://far") == before
    synthesis(tmp_path / "new", "memory://far").run(STAGES, Silent())
    synthesis(tmp_path / "other", "memory://far").run(STAGES, Silent())


def test_it_is_read_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SHOW_S", 0.0)
    growing = synthesis(tmp_path, "memory://far")
    growing._mirror = Mirror(growing.folder, growing.place, clock=lambda: 0.0)
    looking = Looking("memory://far")
    growing.run(STAGES, looking)
    assert looking.seen == sorted(set(looking.seen))
    assert len(looking.seen) == 3


@pytest.mark.parametrize("scheme", ["bucket", "disk"])
def test_whatever_moment_it_dies_at_what_is_seen_is_whole_and_any_machine_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], scheme: str
) -> None:
    monkeypatch.setattr(destination, "ATTEMPTS", 1)
    synthesis(tmp_path / "count", f"{scheme}://{tmp_path}/count").run(STAGES, Silent())
    changes = stores.FAULTS.changes
    drawn = random.Random(3)
    for last_breath in sorted(drawn.sample(range(3, changes), DEATHS)):
        stores.renew()
        url, work = f"{scheme}://{tmp_path}/{last_breath}", tmp_path / f"work{last_breath}"
        stores.FAULTS.fails = last_breath.__lt__
        with pytest.raises(UserError, match="StoreError: no connection"):
            synthesis(work, url).run(STAGES, Silent())
        stores.FAULTS.fails = lambda _: False
        place = Destination(f"{url}/scripted", "directory")
        seen = far(url)
        assert {name: seen[name] for name in seen if "/" in name}.items() <= whole.items()
        for split in ("train", "validation", "test"):
            if place.content(f"{split}.jsonl"):
                assert not inspect(f"{url}/scripted/{split}.jsonl", hear=True).findings, last_breath
        place.remove(CLAIM)  # this process still lives
        again = work if last_breath % 2 else tmp_path / f"other{last_breath}"
        synthesis(again, url).run(STAGES, Silent())
        assert far(url) == whole, last_breath


def test_a_finished_data_set_that_grows_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destination, "ATTEMPTS", 1)
    synthesis(tmp_path / "work", "bucket://far").run(STAGES, Silent())
    before, first = dict(stores.Bucket.store), stores.FAULTS.changes
    synthesis(tmp_path / "more", "bucket://far", count=30).run(STAGES, Silent())
    last = stores.FAULTS.changes - first
    shown = [number for number, name in enumerate(stores.FAULTS.files) if name.endswith("dataset.json")]
    assert len(shown) == 4  # twice each time: growing, finished
    for last_breath in range(last - 12, last - 2):
        stores.renew()
        stores.Bucket.store.update(before)
        stores.FAULTS.fails = last_breath.__lt__
        with pytest.raises(UserError, match="no connection"):
            synthesis(tmp_path / str(last_breath), "bucket://far", count=30).run(STAGES, Silent())
        assert not inspect("bucket://far/scripted", hear=True).findings


def test_a_store_that_fails_now_and_then_is_asked_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    stores.FAULTS.fails = lambda number: number > 3 and number % 5 == 1
    synthesis(tmp_path / "work", f"disk://{tmp_path}/far").run(STAGES, Silent())
    assert far(f"disk://{tmp_path}/far") == whole


def test_two_machines_cannot_make_it_at_once(tmp_path: Path) -> None:
    class Second(Silent):
        told = ""

        def ends(self, stage: str) -> None:
            with pytest.raises(UserError, match="writes this data set") as caught:
                synthesis(tmp_path / "two", "memory://far").run(STAGES, Silent())
            self.told = caught.value.where

    second = Second()
    synthesis(tmp_path / "one", "memory://far").run(["instructions"], second)
    assert second.told == "directory: memory://far/scripted"


def test_two_data_sets_are_never_mixed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        synthesis(tmp_path / name, f"memory://{name}").run(["instructions"], Silent())
    before = far("memory://one")
    with pytest.raises(UserError, match="is not the one in"):
        synthesis(tmp_path / "two", "memory://one").run(STAGES, Silent())
    Destination("memory://three/scripted", "directory").put_content(b"{}", "anything")
    with pytest.raises(UserError, match="something else lies there"):
        synthesis(tmp_path / "one", "memory://three").run(STAGES, Silent())
    assert far("memory://one") == before


def test_of_two_blocks_of_one_number_the_one_behind_the_url_counts(tmp_path: Path) -> None:
    """A machine died before it had copied its last block, and another one has made it."""
    synthesis(tmp_path / "one", "memory://far").run(["instructions"], Silent())
    block = tmp_path / "one" / "scripted" / "stages" / "instructions" / "000002.jsonl"
    content = block.read_bytes()
    for other in (content[:-1] + b"\n\n", content.replace(b'"0', b'"1')):
        block.write_bytes(other)
        synthesis(tmp_path / "one", "memory://far").run(["instructions"], Silent())
        assert block.read_bytes() == content


def test_a_url_that_cannot_be_used_is_told_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="directory: nothing://far/scripted: nothing:// cannot be used"):
        synthesis(tmp_path, "nothing://far")
    stores.FAULTS.fails = lambda _: True
    with pytest.raises(UserError, match="cannot be written to and read"):
        synthesis(tmp_path, "bucket://far").run(STAGES, Silent())
    assert not list(tmp_path.rglob("*.jsonl"))
