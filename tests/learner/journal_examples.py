"""Records for tests of the journal."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from learner.journal.journal import Journal
from learner.journal.records import (
    Began,
    Checkpointed,
    Dropped,
    HeldOut,
    Received,
    Record,
    Salvaged,
    Skipped,
    Taken,
    Trained,
)
from learner.journal.recovery import Recovered
from protocol.measures import GroupMeasures
from protocol.messages import (
    Completion,
    GroupResult,
    Outcome,
    PolicyVersion,
    PreferencePair,
    Purpose,
    VersionSpan,
)
from tests.learner.faulty_disk import FaultyDisk
from tests.protocol import examples

SEGMENT_BYTES = 1500
"""Small, so that a few records fill one."""

numbers = st.integers(0, 2**40)
reals = st.floats(allow_nan=False)
versions = st.builds(PolicyVersion, st.integers(0, 9), numbers)
completions = st.builds(
    Completion,
    utterance=st.integers(0, 7),
    token_ids=st.binary(max_size=40),
    logprobs=st.binary(max_size=40),
    text=st.text(max_size=20),
    finish_reason=st.sampled_from(["stop", "length", "abort"]),
    spans=st.lists(st.builds(VersionSpan, versions, numbers, numbers), max_size=2),
    reward=st.none() | reals,
    reward_error=st.none() | st.text(max_size=5),
    reward_parts=st.dictionaries(st.text(max_size=5), reals, max_size=2),
)
measures = st.builds(
    GroupMeasures,
    answers=numbers,
    exact=numbers,
    bleu_counts=st.lists(numbers, min_size=10, max_size=10),
    consistency=st.none() | reals,
    agreement=st.none() | reals,
)
results = st.builds(
    GroupResult,
    ordinal=numbers,
    lease_epoch=numbers,
    group_id=st.text(max_size=10),
    outcome=st.sampled_from(Outcome),
    purpose=st.sampled_from(Purpose),
    reason=st.text(max_size=10),
    completions=st.lists(completions, max_size=3),
    pairs=st.lists(st.builds(PreferencePair, st.integers(-1, 7), st.integers(0, 7)), max_size=2),
    measures=st.none() | measures,
    reference_reward=st.none() | reals,
)
facts: st.SearchStrategy[Record] = st.one_of(
    st.builds(Began, numbers, numbers, st.text(max_size=10), numbers),
    st.builds(HeldOut, numbers, numbers),
    st.builds(Received, results, st.none() | numbers, numbers, st.text(max_size=10)),
    st.builds(Taken, numbers, st.lists(numbers, max_size=8)),
    st.builds(Trained, numbers),
    st.builds(Skipped, numbers),
    st.builds(Dropped, numbers, st.text(max_size=10)),
    st.builds(Checkpointed, numbers, numbers),
)
"""What the learner writes."""
records: st.SearchStrategy[Record] = facts | st.builds(Salvaged, numbers, numbers)
"""What the journal may hold."""


def received(ordinal: int, text_bytes: int = 4) -> Received:
    """A result with an answer of so many bytes; it holds no run of zeros that could pass for a lost sector."""
    return Received(examples.result(ordinal, text="four" * (text_bytes // 4)), ordinal, ordinal, "rollout-0")


def opened(disk: FaultyDisk, *, salvage: bool = False, first_needed: int = 0, last_known: int = 0) -> tuple[Journal, Recovered]:
    """A journal with small files and known salts."""
    return Journal.open(
        disk,
        salvage=salvage,
        first_needed=first_needed,
        last_known=last_known,
        segment_bytes=SEGMENT_BYTES,
        buffer_bytes=1 << 14,
        new_salt=lambda: 0x5EED << 40 | len(disk.calls),
    )


def written(commits: Sequence[Sequence[Record]]) -> tuple[FaultyDisk, dict[int, Record]]:
    """A disk with these commits, and the records by sequence."""
    disk, model = FaultyDisk(), dict[int, Record]()
    journal, _ = opened(disk)
    for commit in commits:
        for record in commit:
            model[journal.append(record)] = record
        journal.commit()
    journal.close()
    disk.kill()
    return disk, model
