"""A checkpoint that is written while the journal is stalled."""

from __future__ import annotations

from typing import Any

from learner.journal.journal import Journal
from learner.journal.records import Began, Received
from learner.logbook import RETRY_S, Logbook
from tests.learner.faulty_disk import FULL, FaultyDisk
from tests.learner.groups import result


class Deaf:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_checkpoint_needs_nothing_that_may_never_be_written() -> None:
    """Or a life that goes on from it would miss what the disk has refused."""
    disk, now_s = FaultyDisk(), 0.0
    journal, _ = Journal.open(disk)
    logbook = Logbook(journal, Deaf(), limit_bytes=1 << 30, clock=lambda: now_s)  # type: ignore[arg-type]
    logbook.note(Began(0, 0))
    assert logbook.commit()
    disk.faults[len(disk.calls) + 1] = FULL
    for ordinal in (4, 5):
        logbook.note(Received(result(ordinal=ordinal)))
    assert not logbook.commit()
    durable, needs = logbook.position([5])
    assert (durable, needs) == (1, 2)
    journal.close()
    journal, found = Journal.open(disk, first_needed=needs, last_known=durable)
    assert list(found.records()) == []

    now_s = 2 * RETRY_S
    again = Logbook(journal, Deaf(), limit_bytes=1 << 30, clock=lambda: now_s)  # type: ignore[arg-type]
    again.note(Received(result(ordinal=5)))
    assert again.position([5]) == (2, 2)
