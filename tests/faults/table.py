"""The faults, what is expected of each, and who proves it where no drill does."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One row."""

    what: str
    expected: str
    elsewhere: str = ""
    """Tests beside the drills."""


FAULTS: dict[int, Fault] = {
    1: Fault(
        "`kill -9` of the learner, five times", "nothing acknowledged is lost, nothing trained twice", "`test_replay.py`, `tests/e2e`"
    ),
    2: Fault("`kill -9` of an actor", "its groups go to others; it returns as a new incarnation", "`tests/protocol/links`, `tests/e2e`"),
    3: Fault("an actor stands still (SIGSTOP)", "leases reclaimed; late results count once, or as duplicates", "`tests/protocol/links`"),
    4: Fault("the learner stands still (SIGSTOP)", "actors stop at their credit; memory flat"),
    5: Fault(
        "an actor hangs with Python's lock held", "found by both heartbeats, killed, replaced", "`test_hangs.py`, `test_supervision.py`"
    ),
    6: Fault("black hole both ways", "both sides notice; exact ledger"),
    7: Fault("acknowledgements lost", "results are sent again; exact ledger"),
    8: Fault("latency, resets, single bytes", "everything arrives"),
    9: Fault("little bandwidth for weights", "results and heartbeats flow; versions come whole"),
    10: Fault("the weight store dies in a pull", "resumed, or the next version; never a mixed one", "`tests/protocol/weights`"),
    11: Fault("a bit flips in a weight chunk", "refused, asked for again", "`tests/protocol/weights`, `test_actor.py`"),
    12: Fault("actors join and leave, 50 times", "current version before the first result; nothing piles up"),
    13: Fault("two actors of one name", "the newer incarnation works; of two equal ones the first"),
    14: Fault("no room for the journal", "nothing leased or acknowledged; goes on by itself", "`test_journal_faults.py`, `test_replay.py`"),
    15: Fault("a checkpoint cut short at any call", "the one before it or the new one, whole", "`test_publish.py`, `test_resume.py`"),
    16: Fault("torn or damaged journal", "tail cut off; elsewhere refused by file and byte", "`test_journal_damage.py`"),
    17: Fault("resume after later steps", "the same bits, ordinals neither skipped nor repeated", "`test_resume.py`, `test_replay.py`"),
    18: Fault("losses that are not finite", "skipped on all ranks, rolled back, stopped", "`test_engine.py`, `test_rollback.py`"),
    19: Fault("reward server: 500, stall, garbage, NaN, away", "no pair without scores; recovers by itself", "`test_client.py`"),
    20: Fault("SIGTERM, and a second one", "drained and saved; the second is a kill", "`test_supervision.py`, `tests/e2e`"),
    21: Fault(
        "strangers, floods, foreign bytes", "refused and counted; memory bounded; nothing unpickled", "`test_gate.py`, `test_codec.py`"
    ),
    22: Fault("all actors gone", "the learner idles below 5 % of a core, and goes on", "`test_supervision.py`"),
    23: Fault(
        "another protocol version", "refused with both versions; a later minor one is read", "`tests/protocol/links`, `test_codec.py`"
    ),
    24: Fault("clocks jump by hours", "no lease expires, nobody falls silent"),
    25: Fault("a Ray worker is killed", "its engine is reaped before it comes back", "`test_workers.py`, `test_engine.py`, `tests/e2e`"),
}
