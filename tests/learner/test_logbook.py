"""The journal as the learner keeps it: it stays within its limit, and reaches back to the last checkpoints."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.gauges import Gauges
from learner.journal.journal import Journal
from learner.journal.records import Received
from learner.journal.recovery import read_all
from learner.logbook import REACHED, Logbook
from protocol.metrics import Metrics
from tests.learner.faulty_disk import FaultyDisk
from tests.learner.journal_examples import received

LIMIT_BYTES = 32 << 10
SEGMENT_BYTES = LIMIT_BYTES // 8
LARGEST_BYTES = 1 << 10
QUEUED = 4
"""Results that wait for a step at any time."""


class Run:
    """A learner that journals one result a step, and keeps every checkpoint."""

    def __init__(self) -> None:
        self.disk, self.gauges = FaultyDisk(), Gauges(Metrics("learner", "0"))
        self.step = 0
        self.needs: dict[int, int] = {}
        self.known = 0
        self.begin()

    def begin(self) -> None:
        """A life that goes on from the last checkpoint."""
        needed = self.needs[max(self.needs)] if self.needs else 0
        self.journal, found = Journal.open(
            self.disk, first_needed=needed, last_known=self.known, segment_bytes=SEGMENT_BYTES, new_salt=lambda: len(self.disk.calls)
        )
        records = found.records(needed - 1)
        sequences = {record.result.ordinal: sequence for sequence, record in records if isinstance(record, Received)}
        self.logbook = Logbook(self.journal, self.gauges, sequences, limit_bytes=LIMIT_BYTES, known=self.known)

    def restart(self) -> None:
        self.journal.close()
        self.begin()

    def take_a_step(self, size: int) -> None:
        self.step += 1
        self.logbook.note(received(self.step, size))
        assert self.logbook.commit()
        if self.logbook.wants_checkpoint:
            self.checkpoint()

    def checkpoint(self) -> None:
        self.logbook.begin_checkpoint()
        self.known, self.needs[self.step] = self.logbook.position(range(self.step - QUEUED + 1, self.step + 1))
        self.logbook.checkpointed(self.step, self.needs, complete=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(4, LARGEST_BYTES), st.sampled_from(["", "", "", "checkpoint", "restart"])), min_size=100, max_size=300)
)
def test_the_journal_stays_within_its_limit_and_reaches_back_to_the_last_checkpoints(steps: list[tuple[int, str]]) -> None:
    run = Run()
    slack = 4 * SEGMENT_BYTES + (QUEUED + 2) * 2 * LARGEST_BYTES
    for size, event in steps:
        run.take_a_step(size)
        if event == "checkpoint" and run.step % 7 == 0:
            run.checkpoint()
        elif event == "restart":
            run.restart()
        assert run.journal.counts.bytes_on_disk <= LIMIT_BYTES + slack
    for step in sorted(run.needs)[-REACHED:]:
        assert not read_all(run.disk, first_needed=run.needs[step], last_known=run.known).found.lost


def test_a_journal_below_its_limit_reaches_back_to_every_checkpoint() -> None:
    run = Run()
    for number in range(20):
        run.take_a_step(400)
        if number % 4 == 3:
            run.checkpoint()
    assert run.journal.counts.segments > 2
    assert len(run.needs) == 5
    assert not read_all(run.disk, first_needed=min(run.needs.values()), last_known=run.known).found.lost


def test_a_checkpoint_that_fails_is_not_wanted_again_at_once() -> None:
    run = Run()
    for _ in range(LIMIT_BYTES // 2 // 400):
        run.logbook.note(received(0, 400))
        run.logbook.commit()
    assert run.logbook.wants_checkpoint
    run.logbook.begin_checkpoint()  # and then the disk refuses it
    run.logbook.note(received(0, 400))
    run.logbook.commit()
    assert not run.logbook.wants_checkpoint


def test_a_complete_run_keeps_its_journal() -> None:
    run = Run()
    for _ in range(200):
        run.step += 1
        run.logbook.note(received(run.step, 400))
        run.logbook.commit()
    whole = run.journal.counts.bytes_on_disk
    known, needs = run.logbook.position([])
    run.logbook.checkpointed(run.step, {run.step: needs}, complete=True)
    assert known >= 200
    assert run.journal.counts.bytes_on_disk > max(whole, LIMIT_BYTES)
