"""What the learner's journal costs: records of about 4 KiB, committed in groups, beside a bare write and fdatasync of the same bytes.

    python -m benchmarks.journal [--folder DIR] [--json FILE]

Both sides append to a file in the same folder and take turns; a disk's speed varies by more than the journal costs, so their ratio is
what counts. The journal's side includes encoding and checksums. Without `--folder` a temporary one is used; it has to lie on a real disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import command
from benchmarks.rows import row
from learner.journal.disk import PosixDisk
from learner.journal.journal import Journal
from learner.journal.records import Received, encode
from learner.journal.recovery import read_all
from learner.journal.segment import FRAME_BYTES
from protocol.messages import Completion, GroupResult, Outcome, PolicyVersion, PreferencePair, VersionSpan

TARGETS = {1: 0.9, 8: 0.9, 64: 0.75, 256: None}
"""Ratios by records a commit. At 256 of them a fast disk takes no longer for a record than msgpack does, so the ratio is the disk's."""
VOICES, TOKENS = 4, 100
REPEATS = 9
COMMITS = 40


def record(ordinal: int) -> Received:
    """A group's result: four voices of a hundred tokens."""
    version = PolicyVersion(0, ordinal // 16)
    completions = [
        Completion(
            voice,
            os.urandom(4 * TOKENS),
            os.urandom(4 * TOKENS),
            "the capital of peru is lima " * 4,
            "stop",
            [VersionSpan(version, 0, TOKENS)],
            reward=0.5,
        )
        for voice in range(VOICES)
    ]
    result = GroupResult(ordinal, 0, f"group-{ordinal}", Outcome.PAIRS, completions=completions, pairs=[PreferencePair(0, 1)])
    return Received(result, ordinal, ordinal, "rollout-0")


def ours(folder: Path, records: list[Received], group: int) -> float:
    """Seconds to append and commit all records, `group` at a time."""
    journal, _ = Journal.open(PosixDisk(folder))
    journal.append(records[0])
    journal.commit()  # both sides have their file
    started = time.perf_counter()
    for start in range(0, len(records), group):
        for each in records[start : start + group]:
            journal.append(each)
        journal.commit()
    seconds = time.perf_counter() - started
    journal.close()
    return seconds


def bare(folder: Path, blocks: list[bytes]) -> float:
    """Seconds to write and sync the blocks one by one."""
    folder.mkdir()
    handle = os.open(folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"header")
    os.fsync(handle)
    started = time.perf_counter()
    for block in blocks:
        os.write(handle, block)
        os.fdatasync(handle)
    seconds = time.perf_counter() - started
    os.close(handle)
    return seconds


def compare(folder: Path, group: int, commits: int) -> dict[str, Any]:
    """The row of one size of a commit: the best of some turns, for what else the disk does only takes away."""
    records = [record(each) for each in range(group * commits)]
    encoded = [encode(each) for each in records]
    blocks = [b"".join(bytes(FRAME_BYTES) + each for each in encoded[start : start + group]) for start in range(0, len(encoded), group)]
    taken = [
        (ours(folder / f"{group}-{turn}-ours", records, group), bare(folder / f"{group}-{turn}-bare", blocks)) for turn in range(REPEATS)
    ]
    best, theirs = (len(records) / min(side) for side in zip(*taken, strict=True))
    if read_all(PosixDisk(folder / f"{group}-0-ours")).found.last != len(records) + 1:
        raise RuntimeError("the journal does not hold what was written")
    return row(f"{group} a commit", "records/s", best, "write + fdatasync", theirs, TARGETS[group])


def recovery(folder: Path, count: int) -> dict[str, Any]:
    """The row of reading a journal again, checked and decoded, beside reading the file's bytes."""
    journal, _ = Journal.open(PosixDisk(folder / "recovery"))
    for each in range(count):
        journal.append(record(each))
        if journal.buffered_bytes > 1 << 20:
            journal.commit()
    journal.commit()
    journal.close()
    started = time.perf_counter()
    found = sum(1 for _ in read_all(PosixDisk(folder / "recovery")).records())
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    for path in sorted((folder / "recovery").iterdir()):
        path.read_bytes()
    return row("recovery", "records/s", found / seconds, "reading the bytes", found / (time.perf_counter() - started), None)


def measure(folder: Path | None = None) -> list[dict[str, Any]]:
    """Every row."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        rows = [compare(Path(inside), group, COMMITS if group < 256 else COMMITS // 2) for group in TARGETS]
        return [*rows, recovery(Path(inside), 5000)]


if __name__ == "__main__":
    command("journal", __doc__, measure, {"folder": {"type": Path}})
