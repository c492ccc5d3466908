from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.journal.disk import PosixDisk
from learner.journal.journal import BufferFullError, Journal
from learner.journal.records import Began, Dropped, Received, Record, Taken, Trained, decode, encode
from learner.journal.recovery import read_all
from learner.journal.segment import FRAME_BYTES, HEADER_BYTES, frames, pack, pack_header, payload_of, segment_name
from protocol.errors import UserError
from tests.learner.faulty_disk import FaultyDisk
from tests.learner.journal_examples import SEGMENT_BYTES, opened, received, records, written


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(encode(record)) == record


@given(st.lists(st.lists(records, max_size=4), max_size=6))
def test_a_journal_is_read_as_it_was_written(commits: list[list[Record]]) -> None:
    disk, model = written(commits)
    assert dict(read_all(disk).records()) == model
    assert sorted(model) == list(range(1, len(model) + 1))


def test_fields_of_a_newer_version_are_ignored_and_records_of_one_refused() -> None:
    newer = msgspec.msgpack.encode({"type": "trained", "step": 3, "mood": "good"})
    assert decode(newer) == Trained(3)
    payload = msgspec.msgpack.encode({"type": "mooded", "mood": "good"})
    name = segment_name(1)
    disk = FaultyDisk.of({name: pack_header(1, 7) + pack([encode(Trained(1)), payload], 1, 7)})
    found = read_all(disk)
    with pytest.raises(UserError, match=f"{name} at byte .*record 2 .* go on with the version"):
        list(found.records())


def test_another_format_is_refused() -> None:
    data = bytearray(pack_header(1, 7))
    data[4] = 9
    data[24:32] = xxh3(bytes(data[:24]))
    with pytest.raises(UserError, match=r"journal format 9\.0, this version reads 1\.0"):
        opened(FaultyDisk.of({segment_name(1): bytes(data)}))


def xxh3(data: bytes) -> bytes:
    import xxhash

    return int(xxhash.xxh3_64_intdigest(data)).to_bytes(8, "little")


def test_a_payload_that_holds_a_whole_record_is_none() -> None:
    forged = pack([encode(Trained(666))], 2, salt=1)
    data = bytearray(pack_header(1, 2) + pack([forged, encode(Trained(2))], 1, salt=2))
    data[HEADER_BYTES] ^= 1  # the reader now looks through the payload for the next record
    assert [decode(payload_of(bytes(data), frame)) for frame in frames(bytes(data), 2, 1)] == [Trained(2)]


def test_nothing_is_durable_before_a_commit_which_writes_and_syncs_once() -> None:
    disk = FaultyDisk()
    journal, _ = opened(disk)
    journal.append(Trained(0))
    journal.commit()
    disk.calls.clear()
    assert [journal.append(Trained(step)) for step in (1, 2, 3)] == [2, 3, 4]
    assert disk.calls == []
    assert journal.durable == 1
    assert journal.commit() == 4
    assert disk.calls == ["write", "fdatasync"]
    assert journal.commit() == 4
    assert disk.calls == ["write", "fdatasync"]


def test_the_buffer_is_bounded() -> None:
    disk = FaultyDisk()
    journal, _ = Journal.open(disk, buffer_bytes=1000)
    journal.append(received(0, 500))
    with pytest.raises(BufferFullError, match="over 1000"):
        journal.append(received(1, 500))
    journal.commit()
    assert journal.append(received(1, 500)) == 2
    assert 500 < journal.buffered_bytes <= 1000
    with pytest.raises(BufferFullError):
        journal.append(received(2, 1000))


def test_files_roll_and_carry_the_sequence_of_their_first_record() -> None:
    disk, model = written([[received(each, 100)] for each in range(10)])
    names = sorted(disk.files)
    assert len(names) > 2
    assert names[0] == "00000000000000000001.journal"
    assert all(HEADER_BYTES < disk.size(name) <= SEGMENT_BYTES for name in names)
    for name in names:
        first = next(frames(disk.read(name), opened_salt(disk, name), 1))
        assert segment_name(first.sequence) == name
    big, model = written([[received(0, 2000)], [received(1, 2000)]])
    assert [big.size(name) > SEGMENT_BYTES for name in sorted(big.files)] == [True, True]
    assert dict(read_all(big).records()) == model


def opened_salt(disk: FaultyDisk, name: str) -> int:
    return int.from_bytes(disk.read(name)[16:24], "little")


@pytest.mark.parametrize("below", range(1, 14))
def test_freeing_deletes_whole_files_below_a_sequence_and_never_the_last(below: int) -> None:
    disk, model = written([[received(each, 100)] for each in range(10)])
    names = sorted(disk.files)
    journal, _ = opened(disk)
    freed = journal.free_below(below)
    left = dict(read_all(disk, first_needed=min(below, 11)).records())
    assert left == {sequence: record for sequence, record in model.items() if sequence >= below}
    assert sorted(disk.files) == names[freed:]
    assert freed == sum(int(name[:20]) <= below for name in names[1:])
    assert journal.counts.segments == len(disk.files)
    assert journal.append(Trained(1)) == 11


def test_a_later_life_goes_on_in_a_file_of_its_own() -> None:
    disk, model = written([[Began(0, 0), Taken(1, [4, 2])]])
    before = disk.contents()
    journal, found = opened(disk)
    assert dict(found.records()) == model
    assert disk.contents() == before
    assert journal.append(Trained(1)) == 3
    assert journal.commit() == 3
    assert [record for _, record in read_all(disk).records(after=1)] == [Taken(1, [4, 2]), Trained(1)]
    assert {name: data for name, data in disk.contents().items() if name in before} == before


def test_counts() -> None:
    disk = FaultyDisk()
    journal, _ = opened(disk)
    for each in range(6):
        journal.append(received(each, 200))
        journal.append(Dropped(each, "stale"))
        journal.commit()
    counts = journal.counts
    assert (counts.commits, counts.records, counts.failed_commits, counts.torn_bytes, counts.lost_records) == (6, 12, 0, 0, 0)
    assert counts.segments == len(disk.files) > 1
    assert counts.bytes_on_disk == sum(map(len, disk.contents().values())) > 12 * FRAME_BYTES


def test_on_a_real_disk(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "journal"
    assert list(read_all(PosixDisk(folder)).records()) == []
    journal, _ = Journal.open(PosixDisk(folder), segment_bytes=SEGMENT_BYTES)
    model: dict[int, Record] = {}
    for each in range(12):
        record = received(each, 200)
        model[journal.append(record)] = record
        journal.commit()
    with pytest.raises(UserError, match="another process writes this journal"):
        Journal.open(PosixDisk(folder))
    journal.close()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) > 2
    with (folder / names[-1]).open("ab") as file:
        file.write(b"half a record")
    journal, found = Journal.open(PosixDisk(folder))
    assert dict(found.records()) == model
    assert journal.counts.torn_bytes == 13
    assert journal.free_below(12) == len(names) - 1
    assert isinstance(model[journal.append(Trained(8)) - 1], Received)
    assert journal.commit() == 13
    journal.close()
    assert [record for _, record in read_all(PosixDisk(folder)).records(after=12)] == [Trained(8)]


WRITER = """
import sys
from pathlib import Path
from learner.journal.disk import PosixDisk
from learner.journal.journal import Journal
from learner.journal.records import Dropped
journal, _ = Journal.open(PosixDisk(Path(sys.argv[1])), segment_bytes=1000)
while True:
    for _ in range(5):
        journal.append(Dropped(journal.durable, "stale"))
    print(journal.commit(), flush=True)
"""


def test_what_a_killed_process_committed_is_there_and_its_lock_is_not(tmp_path: Path) -> None:
    known = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            line = process.stdout.readline()
        process.kill()
        rest = process.stdout.read().splitlines()
        process.wait()
        known = int([line.strip(), *(line for line in rest if line.isdigit())][-1])
        sequences = [sequence for sequence, _ in read_all(PosixDisk(tmp_path), last_known=known).records()]
        assert sequences == list(range(1, len(sequences) + 1))
        assert known <= len(sequences)
    journal, _ = Journal.open(PosixDisk(tmp_path), last_known=known)
    assert journal.durable >= known >= 300
    journal.close()
