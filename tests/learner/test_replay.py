"""What a run's next life makes of the journal, and what a replay does."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from learner.checkpoint import steps_of
from learner.history import fold
from learner.journal import JOURNAL
from learner.journal.disk import Disk, PosixDisk
from learner.journal.records import Received, Taken
from learner.journal.recovery import read_all
from learner.journal.segment import HEADER_BYTES, frames, read_header
from learner.life import Life
from learner.main import Learner
from protocol.errors import UserError
from protocol.messages import PolicyVersion, Purpose
from tests.learner.scripted import ScriptedActor
from tests.learner.test_resume import HALF, STEPS, carry_out, config_of, interrupted, tensors


def training(actor: ScriptedActor) -> set[int]:
    return {leased.ordinal for leased in actor.leases if leased.purpose is Purpose.TRAIN}


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def assert_same_bits(one: Path, other: Path) -> None:
    ours, theirs = tensors(one, STEPS), tensors(other, STEPS)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


def cut(journal: Path, to: Path, at: Path | None, share: float) -> None:
    """The journal as a crash left it: whole up to the checkpoint `at`, and so large a share of what came behind."""
    to.mkdir(parents=True)
    known = Life.read(at, lineage=1).journal_at if at is not None else 0
    files = sorted(journal.glob("*.journal"))
    for file in files[:-1]:
        shutil.copy(file, to / file.name)
    content, first = files[-1].read_bytes(), int(files[-1].stem)
    found = list(frames(content, read_header(content, first).salt, first))
    start = next((frame.end for frame in found if frame.sequence == known), HEADER_BYTES)
    (to / files[-1].name).write_bytes(content[: start + int(share * (found[-1].end - start))])


def test_results_are_trained_from_the_journal_without_asking_again(checkpoint: Path, tmp_path: Path) -> None:
    config, whole, again = config_of(checkpoint, tmp_path), tmp_path / "whole", tmp_path / "again"
    first, actor = carry_out(config, whole)
    at = interrupted(whole, again)
    shutil.copytree(whole / JOURNAL, again / JOURNAL)
    resumed, second_actor = carry_out(config, again, at)
    assert_same_bits(whole, again)
    assert training(second_actor) == set()
    (event,) = events(again, "resume")
    assert (event["steps_again"], event["leased_again"]) == (STEPS - HALF, 0)
    assert resumed["ledger"]["trained"] == first["ledger"]["trained"] == 3 * STEPS
    assert resumed["ledger"]["unique"] == resumed["ledger"]["trained"] + resumed["ledger"]["dropped"]
    assert training(actor)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_wherever_the_journal_ends_the_run_ends_at_the_same_bits(checkpoint: Path, tmp_path: Path, share: float) -> None:
    """What is lost of it is leased again; what is not trains again."""
    config, whole, again = config_of(checkpoint, tmp_path), tmp_path / "whole", tmp_path / "again"
    _, actor = carry_out(config, whole)
    at = interrupted(whole, again)
    cut(whole / JOURNAL, again / JOURNAL, at, share)
    left = [record for _, record in read_all(PosixDisk(again / JOURNAL)).records()]
    _, second_actor = carry_out(config, again, at)
    assert_same_bits(whole, again)
    kept = {record.result.ordinal for record in left if isinstance(record, Received)}
    assert not training(second_actor) & kept
    assert training(second_actor) | kept >= training(actor)
    (event,) = events(again, "resume")
    assert event["steps_again"] == sum(isinstance(record, Taken) and record.step > HALF for record in left)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_results_of_an_earlier_lifes_leases_are_taken_and_not_asked_for_again(checkpoint: Path, tmp_path: Path, share: float) -> None:
    config, whole, again = config_of(checkpoint, tmp_path), tmp_path / "whole", tmp_path / "again"
    _, actor = carry_out(config, whole)
    cut(whole / JOURNAL, again / JOURNAL, None, share)
    owed = set(fold(Life(), read_all(PosixDisk(again / JOURNAL)).records()).life.frontier.untrained)
    late = [(leased, PolicyVersion(0, 0)) for leased in actor.leases if leased.ordinal in owed and leased.purpose is Purpose.TRAIN]
    assert len(late) > 3
    learner = Learner(config, again, again / "weights", lineage=1)
    with ScriptedActor(learner, late=late) as second:
        closing = learner.run()
    assert_same_bits(whole, again)
    assert training(second).isdisjoint(leased.ordinal for leased, _ in late)
    assert closing["ledger"]["rejected"] == 0  # duplicates are the link's: on a busy machine it says again what was not acknowledged yet
    assert closing["ledger"]["unique"] == closing["ledger"]["trained"] + closing["ledger"]["dropped"]
    half, replay = again / "checkpoints" / f"step-{HALF}", tmp_path / "replay"
    replayed = Learner(config, replay, replay / "weights", lineage=9, checkpoint=half, replay_of=again).run()
    published = {int(row["policy_version"].partition(".")[2]): row["digest"] for row in events(again, "publish")}
    assert replayed["digests"].items() >= {step: digest for step, digest in published.items() if step > HALF}.items()


def test_a_run_without_a_checkpoint_goes_on_by_its_journal_alone(checkpoint: Path, tmp_path: Path) -> None:
    config, whole, again = config_of(checkpoint, tmp_path), tmp_path / "whole", tmp_path / "again"
    carry_out(config, whole)
    shutil.copytree(whole / JOURNAL, again / JOURNAL)
    learner = Learner(config, again, again / "weights", lineage=1)
    with ScriptedActor(learner) as actor:
        learner.run()
    assert_same_bits(whole, again)
    assert training(actor) == set()
    before = [event for run_dir in (whole, again) for event in events(run_dir, "evaluation") if event["label"] == "before"]
    assert len(before) == 1  # the weights that it would measure now are not those that the run began with


def test_two_crashes_cost_nothing(checkpoint: Path, tmp_path: Path) -> None:
    config, whole, once, twice = config_of(checkpoint, tmp_path), tmp_path / "whole", tmp_path / "once", tmp_path / "twice"
    carry_out(config, whole)
    at = interrupted(whole, once)
    cut(whole / JOURNAL, once / JOURNAL, at, 0.3)
    carry_out(config, once, at)
    at = interrupted(whole, twice)
    cut(once / JOURNAL, twice / JOURNAL, at, 0.6)
    learner = Learner(config, twice, twice / "weights", lineage=2, checkpoint=at)
    with ScriptedActor(learner) as actor:
        closing = learner.run()
    assert_same_bits(whole, twice)
    assert closing["policy_version"] == {"lineage": 2, "step": STEPS}
    first = {leased.ordinal: leased.lease_epoch for leased in actor.leases}
    assert min(first.values()) >= 2 << 16  # above those of both earlier lives


def test_a_run_without_regular_checkpoints_writes_one_when_its_journal_grows(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path, checkpoint_every=0)
    small = config.learner.model_copy(update={"journal_limit_bytes": 6000})  # no room for the results of six steps
    config = config.model_copy(update={"learner": small})
    carry_out(config, tmp_path / "run")
    kept = steps_of(tmp_path / "run")
    assert kept[-1] == STEPS
    assert 1 < len(kept) < STEPS
    last, replay = tmp_path / "run" / "checkpoints" / f"step-{kept[-2]}", tmp_path / "replay"
    digests = Learner(config, replay, replay / "weights", lineage=1, checkpoint=last, replay_of=tmp_path / "run").run()["digests"]
    (published,) = (row["digest"] for row in events(tmp_path / "run", "publish") if row["policy_version"] == f"0.{STEPS}")
    assert digests[STEPS] == published


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_a_replay_gives_every_version_that_was_published(checkpoint: Path, tmp_path: Path, from_checkpoint: bool) -> None:
    config = config_of(checkpoint, tmp_path)
    carry_out(config, tmp_path / "run")
    at = tmp_path / "run" / "checkpoints" / f"step-{HALF}" if from_checkpoint else None
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    learner = Learner(config, tmp_path / "replay", tmp_path / "replay" / "weights", lineage=1, checkpoint=at, replay_of=tmp_path / "run")
    digests = learner.run()["digests"]
    published = {int(row["policy_version"].partition(".")[2]): row["digest"] for row in events(tmp_path / "run", "publish")}
    assert sorted(digests) == list(range(HALF if from_checkpoint else 0, STEPS + 1))
    shared = digests.keys() & published.keys()
    assert len(shared) >= 2
    assert {step: digests[step] for step in shared} == {step: published[step] for step in shared}
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_journal_of_another_run_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path)
    carry_out(config, tmp_path / "run")
    (file,) = (tmp_path / "run" / JOURNAL).glob("*.journal")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="--salvage"):
        Learner(config, tmp_path / "again", tmp_path / "weights", lineage=1, replay_of=tmp_path / "run")


class FullDisk(PosixDisk):
    """Has no room for a while."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refusals = 0
        self.full = threading.Event()

    def write(self, handle: int, data: bytes) -> None:
        if self.full.is_set():
            self.refusals += 1
            if self.refusals == 3:
                self.full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data)


class Crowded(Learner):
    """On a disk that is full after a while."""

    disk: FullDisk

    def _disk(self) -> Disk:
        self.disk = FullDisk(self._run_dir / JOURNAL)
        return self.disk


def test_a_life_knows_what_was_measured_behind_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path).model_copy(deep=True)
    config.evaluation.every = 1
    carry_out(config, tmp_path / "whole")
    again = tmp_path / "again"
    at = interrupted(tmp_path / "whole", again)
    for name in (JOURNAL, "events.jsonl"):
        (shutil.copytree if name == JOURNAL else shutil.copy)(tmp_path / "whole" / name, again / name)
    resumed, actor = carry_out(config, again, at)
    measured = [event["label"] for event in events(again, "evaluation")]
    assert sorted(set(measured)) == sorted({"before", "after", *(f"step {step}" for step in range(1, STEPS))})
    assert measured.count("after") == 2
    assert len(measured) == len(set(measured)) + 1
    assert set(resumed["evaluation"]) == set(measured)
    assert {leased.purpose for leased in actor.leases} == {Purpose.EVALUATE}


def test_a_full_disk_stops_acknowledging_and_loses_nothing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.logbook.RETRY_S", 0.05)
    config = config_of(checkpoint, tmp_path)
    learner = Crowded(config, tmp_path / "run", tmp_path / "run" / "weights")
    stalled = threading.Event()
    commit = learner.disk.write

    def filling(handle: int, data: bytes) -> None:
        if learner.disk.refusals == 0 and learner.status().get("step", 0) >= 2:
            learner.disk.full.set()
        if learner.status().get("journal", {}).get("stalled"):
            stalled.set()
        commit(handle, data)

    monkeypatch.setattr(learner.disk, "write", filling)
    with ScriptedActor(learner) as actor:
        closing = learner.run()
    assert learner.disk.refusals == 3
    assert stalled.is_set()
    assert closing["ledger"]["trained"] == 3 * STEPS
    assert actor.unacknowledged == 0
    carry_out(config, tmp_path / "whole")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")
