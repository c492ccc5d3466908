"""The disk fills up, fails, or loses power at every call; a naive model says what has to be there afterwards."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.journal.journal import Journal, NotDurableError
from learner.journal.records import Dropped, Record, Trained, encode
from learner.journal.recovery import Recovered, read_all
from learner.journal.segment import FRAME_BYTES, HEADER_BYTES
from protocol.errors import UserError
from tests.learner.faulty_disk import Choose, Crash, Fault, FaultyDisk
from tests.learner.journal_examples import opened, received

ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Model:
    """What was appended, what of it has to be there, and what may be gone."""

    def __init__(self) -> None:
        self.appended: dict[int, Record] = {}
        self.durable = 0
        self.freed_below = 1

    def check(self, recovered: Recovered) -> None:
        """After a crash: nothing committed is missing, nothing else is there, and what is there has no gap."""
        pairs = list(recovered.records())
        found = dict(pairs)
        assert [sequence for sequence, _ in pairs] == sorted(found)
        first, last = min(found, default=self.freed_below), max(found, default=self.durable)
        assert sorted(found) == list(range(first, last + 1))
        assert found.items() <= self.appended.items()
        assert first <= self.freed_below
        assert last >= self.durable
        self.appended = {sequence: record for sequence, record in self.appended.items() if sequence <= last}
        self.durable = last

    def reopen(self, disk: FaultyDisk) -> Journal:
        journal, recovered = opened(disk, last_known=self.durable)
        self.check(recovered)
        assert journal.durable == self.durable
        return journal


def drive(disk: FaultyDisk, journal: Journal, model: Model) -> None:
    """Some commits over several files; what fails is tried once more, as the learner does."""
    for number in range(6):
        for each in (received(number, 400), Dropped(number, "stale"), received(number, 100 * number)):
            model.appended[journal.append(each)] = each
        _retried(journal.commit)
        model.durable = journal.durable
        assert model.durable == len(model.appended)
        if number == 4:
            model.freed_below = model.durable - 3
            _retried(lambda: journal.free_below(model.freed_below))


def _retried(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except NotDurableError:
        call()  # type: ignore[operator]


def calls_of_a_run() -> list[str]:
    disk, model = FaultyDisk(), Model()
    drive(disk, model.reopen(disk), model)
    return disk.calls


CALLS = calls_of_a_run()


def randomly(seed: int) -> Choose:
    return random.Random(seed).randrange


@pytest.mark.parametrize("number", range(1, len(CALLS) + 1), ids=lambda number: f"{number}-{CALLS[number - 1]}")
@pytest.mark.parametrize("why", [*ERRNOS, 0], ids=[*(errno.errorcode[each] for each in ERRNOS), "crash"])
def test_a_fault_at_any_call(number: int, why: int) -> None:
    for seed in range(8):
        disk, model = FaultyDisk(), Model()
        disk.faults[number] = Fault(why, written=(0, 1, 700)[seed % 3])
        crashed = False
        try:
            try:
                journal = model.reopen(disk)
            except NotDurableError:
                journal = model.reopen(disk)
            drive(disk, journal, model)
        except Crash:
            crashed = True
        assert crashed == (why == 0)
        if seed % 2:
            disk.power_loss(randomly(seed))
        else:
            disk.kill()
        journal = model.reopen(disk)
        model.appended[journal.append(Trained(9))] = Trained(9)
        model.durable = journal.commit()
        disk.power_loss(randomly(seed))
        model.reopen(disk)


@pytest.mark.parametrize("why", ERRNOS)
def test_a_full_disk_costs_nothing_and_the_journal_goes_on_when_there_is_room(why: int) -> None:
    disk, model = FaultyDisk(), Model()
    journal = model.reopen(disk)
    journal.append(Trained(1))
    journal.commit()
    before = disk.contents()
    journal.append(received(2, 100))
    for tries in range(1, 4):
        disk.faults[len(disk.calls) + 1] = Fault(why, written=100)
        with pytest.raises(NotDurableError, match="disk: the journal cannot be written") as raised:
            journal.commit()
        assert (raised.value.errno, raised.value.full) == (why, why != errno.EIO)
        assert disk.contents() == before
        assert (journal.durable, journal.counts.failed_commits) == (1, tries)
    assert journal.append(Trained(3)) == 3
    assert journal.commit() == 3
    assert dict(read_all(disk).records()) == {1: Trained(1), 2: received(2, 100), 3: Trained(3)}
    assert len(disk.files) == 1


def test_after_a_failed_sync_nothing_is_trusted_to_the_same_file() -> None:
    disk = FaultyDisk()
    journal, _ = opened(disk)
    journal.append(Trained(1))
    journal.commit()
    journal.append(Trained(2))
    disk.faults[len(disk.calls) + 2] = Fault(errno.EIO)
    with pytest.raises(NotDurableError):
        journal.commit()
    assert disk.calls[-4:] == ["write", "fdatasync", "truncate", "close"]
    assert journal.commit() == 2
    assert len(disk.files) == 2
    for seed in range(50):
        lossy = FaultyDisk.of({})
        lossy.files, lossy.synced_files = dict(disk.files), dict(disk.synced_files)
        lossy.power_loss(randomly(seed))
        assert dict(read_all(lossy).records()) == {1: Trained(1), 2: Trained(2)}


def half_given_up() -> FaultyDisk:
    """The first file ends with what a failed commit left there, for it could not be cut off either; the second one holds the commit."""
    disk = FaultyDisk()
    journal, _ = opened(disk)
    for step in (1, 2, 3):
        journal.append(Trained(step))
        if step == 2:
            disk.faults[len(disk.calls) + 2] = disk.faults[len(disk.calls) + 3] = Fault(errno.EIO)
            with pytest.raises(NotDurableError):
                journal.commit()
        else:
            journal.commit()
    size = HEADER_BYTES + 2 * (FRAME_BYTES + len(encode(Trained(1))))
    assert [len(data) for data in disk.contents().values()] == [size, size]
    return disk


def test_what_a_failed_commit_left_does_not_count() -> None:
    disk = half_given_up()
    assert list(read_all(disk).records()) == [(step, Trained(step)) for step in (1, 2, 3)]
    assert read_all(disk).found.torn_bytes == 0
    disk.files[max(disk.files)].content[40] ^= 1
    with pytest.raises(UserError, match=f"{max(disk.files)} at byte 32: records 2 to 2"):
        read_all(disk)


def test_after_an_interrupted_write_nothing_follows_in_the_same_file() -> None:
    disk = FaultyDisk()
    journal, _ = opened(disk)
    journal.append(Trained(1))
    journal.commit()
    journal.append(Trained(2))
    disk.faults[len(disk.calls) + 1] = Fault(written=20)
    with pytest.raises(Crash):
        journal.commit()
    disk.dead = False  # the process lives on: it was a KeyboardInterrupt
    assert journal.commit() == 2
    assert len(disk.files) == 2
    assert list(read_all(disk).records()) == [(1, Trained(1)), (2, Trained(2))]


def test_what_a_killed_process_left_unsynced_is_durable_before_anything_follows_it() -> None:
    disk, model = FaultyDisk(), Model()
    journal = model.reopen(disk)
    model.appended[journal.append(Trained(1))] = Trained(1)
    disk.faults[len(disk.calls) + 7] = Fault()
    with pytest.raises(Crash):
        journal.commit()
    assert disk.calls[-2:] == ["write", "fdatasync"]
    disk.kill()
    model.reopen(disk)
    assert model.durable == 1
    disk.power_loss(lambda _: 0)
    model.reopen(disk)
    assert model.durable == 1


class Life(RuleBasedStateMachine):
    """Appends, commits, frees, faults, kills and power losses in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.disk, self.model = FaultyDisk(), Model()
        self.journal: Journal | None = self.model.reopen(self.disk)

    @rule(texts=st.lists(st.integers(0, 900), min_size=1, max_size=4))
    @precondition(lambda self: self.journal is not None and self.journal.buffered_bytes < 8000)
    def append(self, texts: list[int]) -> None:
        assert self.journal is not None
        for size in texts:
            record = received(len(self.model.appended), size)
            sequence = self.journal.append(record)
            assert sequence == max(self.model.appended, default=self.model.durable) + 1
            self.model.appended[sequence] = record

    @rule()
    @precondition(lambda self: self.journal is not None)
    def commit(self) -> None:
        assert self.journal is not None
        try:
            assert self.journal.commit() == max(self.model.appended, default=self.model.durable)
        except NotDurableError:
            assert self.disk.faults
        except Crash:
            self.journal = None
            return
        assert self.journal.durable >= self.model.durable
        self.model.durable = self.journal.durable

    @rule(back=st.integers(0, 6))
    @precondition(lambda self: self.journal is not None)
    def free(self, back: int) -> None:
        assert self.journal is not None
        self.model.freed_below = max(self.model.freed_below, self.model.durable + 1 - back)
        try:
            self.journal.free_below(self.model.freed_below)
        except NotDurableError:
            assert self.disk.faults
        except Crash:
            self.journal = None

    @rule(
        ahead=st.integers(1, 7),
        why=st.sampled_from([*ERRNOS, 0]),
        again=st.integers(1, 3),
        written=st.integers(0, 3000),
    )
    def fault(self, ahead: int, why: int, again: int, written: int) -> None:
        for number in range(again):
            self.disk.faults[len(self.disk.calls) + ahead + number] = Fault(why, written)

    @rule(data=st.data(), power=st.booleans())
    def crash(self, data: st.DataObject, power: bool) -> None:
        self.journal = None
        if power:
            self.disk.power_loss(lambda count: data.draw(st.integers(0, count - 1)))
        else:
            self.disk.kill()

    @rule(needed=st.booleans())
    @precondition(lambda self: self.journal is None)
    def reopen(self, needed: bool) -> None:
        if self.disk.dead:
            self.disk.kill()
        try:
            journal, recovered = opened(self.disk, first_needed=self.model.freed_below if needed else 0, last_known=self.model.durable)
        except NotDurableError:
            assert self.disk.faults
            return
        except Crash:
            return
        first = next((sequence for sequence, _ in recovered.records()), self.model.freed_below)
        assert not needed or first >= self.model.freed_below
        self.model.check(recovered)
        self.journal = journal

    @invariant()
    def whole(self) -> None:
        """What is durable can be read at any time."""
        if self.disk.dead:
            return
        found = dict(read_all(self.disk, last_known=self.model.durable).records())
        assert found.items() <= self.model.appended.items()


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
