from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.journal.journal import JournalCounts
from learner.journal.records import Dropped, Record, Salvaged, Taken, Trained
from learner.journal.recovery import Recovered, read_all
from learner.journal.segment import FRAME_BYTES, HEADER_BYTES, SECTOR_BYTES, frames, holds_lost_sector, segment_name
from protocol.errors import UserError
from tests.learner.faulty_disk import FaultyDisk
from tests.learner.journal_examples import facts, opened, received, written

COMMITS: list[list[Record]] = [
    *([received(each, 40), Dropped(each, "stale")] for each in range(3)),
    [Taken(1, [0, 1])],
    [received(3, 40), received(4, 40), Trained(1), Dropped(4, "filtered")],
]


def salt_of(data: bytes) -> int:
    return int.from_bytes(data[16:24], "little")


def flip(contents: dict[str, bytes], name: str, place: int, mask: int) -> FaultyDisk:
    data = bytearray(contents[name])
    data[place] ^= mask
    return FaultyDisk.of({**contents, name: bytes(data)})


def salvaged(disk: FaultyDisk) -> tuple[dict[int, Record], JournalCounts]:
    """What salvage finds. The damage is given up for good: the next life opens the journal as it is, and finds the same."""
    journal, found = opened(disk, salvage=True)
    kept = dict(found.records())
    after = journal.append(Trained(99))
    journal.commit()
    journal.close()
    again = dict(opened(disk)[1].records())
    assert [again.pop(after), {key: each for key, each in again.items() if not isinstance(each, Salvaged)}] == [Trained(99), kept]
    return kept, journal.counts


def is_prefix(kept: dict[int, Record], model: dict[int, Record]) -> bool:
    return kept == {sequence: model[sequence] for sequence in range(1, len(kept) + 1)}


def test_a_flip_of_any_byte_is_refused_or_costs_the_very_last_record_alone() -> None:
    disk, model = written(COMMITS)
    contents, last = disk.contents(), max(disk.files)
    assert len(contents) == 2
    tail = [frame.offset for frame in frames(contents[last], salt_of(contents[last]), 1)][-1]
    refused = harmless = 0
    for name, data in contents.items():
        for place in range(len(data)):
            broken = flip(contents, name, place, 1 << place % 8)
            try:
                kept = dict(read_all(broken).records())
            except UserError:
                with pytest.raises(UserError, match=f"disk/{name} at byte .*--salvage"):
                    opened(broken)
                refused += 1
                kept, counts = salvaged(broken)
                assert kept.items() <= model.items()
                lost_salt = 16 <= place < 24
                assert len(kept) == len(model) - 1 or (lost_salt and len(kept) < len(model))
                assert counts.lost_records >= len(model) - len(kept)
                continue
            if kept == model:
                harmless += 1
                assert place < HEADER_BYTES  # what the header says, the file's name says as well, but for the salt
            else:
                assert (name == last, place >= tail, len(kept)) == (True, True, len(model) - 1)
                assert is_prefix(kept, model)
                journal, _ = opened(broken)
                assert journal.counts.torn_bytes == len(data) - tail
                assert broken.contents()[last] == data[:tail]
    assert refused > 400
    assert harmless == len(contents) * (HEADER_BYTES - 8)


def test_a_cut_at_any_byte_leaves_a_prefix_or_is_refused() -> None:
    disk, model = written(COMMITS)
    contents, last = disk.contents(), max(disk.files)
    for name, data in contents.items():
        ends = [frame.end for frame in frames(data, salt_of(data), 1)]
        earlier = sum(int(other[:20]) < int(name[:20]) for other in contents) and int(name[:20]) - 1
        for size in range(len(data)):
            broken = FaultyDisk.of({**contents, name: data[:size]})
            whole = earlier + sum(end <= size for end in ends)
            if name != last or size < HEADER_BYTES:
                with pytest.raises(UserError, match=r"are damaged or missing"):
                    read_all(broken)
                kept, _ = salvaged(broken)
                lost = len(ends) - (whole - earlier)
                assert len(kept) == len(model) - lost
                assert kept.items() <= model.items()
            else:
                recovered = read_all(broken)
                assert is_prefix(dict(recovered.records()), model)
                assert recovered.found.last == whole
                with pytest.raises(UserError, match=f"records {whole + 1} to {len(model)}"):
                    read_all(broken, last_known=len(model))
                journal, _ = opened(broken)
                assert journal.append(Trained(5)) == whole + 1
                assert broken.size(name) == max([HEADER_BYTES, *(end for end in ends if end <= size)])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(facts, min_size=1, max_size=4), min_size=1, max_size=5),
    st.data(),
)
def test_no_damage_invents_a_record(commits: list[list[Record]], data: st.DataObject) -> None:
    disk, model = written(commits)
    contents = disk.contents()
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(contents)))
        start = data.draw(st.integers(0, len(contents[name])))
        end = data.draw(st.integers(start, min(len(contents[name]), start + 600)))
        filling = data.draw(st.binary(max_size=60) | st.just(bytes(end - start)))
        contents[name] = contents[name][:start] + filling + contents[name][end:]
    broken = FaultyDisk.of(contents)
    first_of_last_commit = len(model) - len(commits[-1]) + 1
    try:
        kept = dict(read_all(broken).records())
        assert is_prefix(kept, model)
        assert len(kept) >= first_of_last_commit - 1 or _cut_at_a_boundary(contents, kept)
    except UserError:
        kept, counts = salvaged(broken)
        assert kept.items() <= model.items()
        assert counts.lost_records


def _cut_at_a_boundary(contents: dict[str, bytes], kept: dict[int, Record]) -> bool:
    """Whole commits are gone from the end of the last file, with nothing whole behind: that cannot be told from a shorter journal."""
    last = max(contents)
    sequences = [frame.sequence for frame in frames(contents[last], salt_of(contents[last].ljust(32, b"\0")), 1)]
    return len(kept) == max(sequences, default=int(last[:20]) - 1)


def test_a_missing_file_is_named() -> None:
    disk, model = written([[received(each, 900)] for each in range(4)])
    names = sorted(disk.files)
    assert len(names) == 4
    del disk.files[names[1]]
    with pytest.raises(
        UserError, match=f"disk/{names[1]} at byte 0: records 2 to 2 of the journal are damaged or missing; put the file back"
    ):
        opened(disk)
    with pytest.raises(UserError, match=names[0]):
        opened(FaultyDisk.of({names[1]: b"", names[2]: disk.read(names[2])}), first_needed=1)
    assert dict(opened(disk, first_needed=3)[1].records()) == {3: model[3], 4: model[4]}
    kept, counts = salvaged(disk)
    assert sorted(kept) == [1, 3, 4]
    assert counts.lost_records == 1


def test_a_journal_that_ends_before_its_checkpoint_is_refused() -> None:
    disk, model = written([[received(each, 900)] for each in range(4)])
    del disk.files[max(disk.files)]
    assert len(dict(read_all(disk, last_known=3).records())) == 3
    with pytest.raises(UserError, match="records 4 to 4"):
        read_all(disk, last_known=4)
    with pytest.raises(UserError, match="records 4 to 6"):
        read_all(disk, first_needed=7)
    with pytest.raises(UserError, match="records 1 to 4"):
        read_all(FaultyDisk(), last_known=4)
    journal, _ = opened(disk, salvage=True, last_known=4)
    assert journal.durable == 5  # the note of what is lost comes behind it: no sequence means two records


def test_new_damage_is_refused_where_old_damage_was_given_up() -> None:
    disk, model = written(COMMITS)
    contents = disk.contents()
    first = min(contents)
    places = [frame.offset for frame in frames(contents[first], salt_of(contents[first]), 1)]
    broken = flip(contents, first, places[1], 1)
    salvaged(broken)
    with pytest.raises(UserError, match="records 2 to 3"):
        read_all(flip(broken.contents(), first, places[2] + 30, 1))
    with pytest.raises(UserError, match="records 5 to 5"):
        read_all(flip(broken.contents(), first, places[4] + 30, 1))


# --- a commit that reached the disk in part, its sectors in any order ---


def long_commit() -> tuple[FaultyDisk, dict[int, Record], str]:
    disk, model = written([[received(0, 40)], [received(each, 400) for each in range(1, 6)]])
    return disk, model, max(disk.files)


@pytest.mark.parametrize("sector", range(7))
def test_a_commit_that_lacks_a_sector_is_cut_off(sector: int) -> None:
    disk, model, name = long_commit()
    data = bytearray(disk.files[name].content)
    sequences = [frame.sequence for frame in frames(bytes(data), salt_of(data), 1)]
    start = max(HEADER_BYTES, sector * SECTOR_BYTES)
    data[start : (sector + 1) * SECTOR_BYTES] = bytes(len(data[start : (sector + 1) * SECTOR_BYTES]))
    recovered = read_all(FaultyDisk.of({**disk.contents(), name: bytes(data)}))
    kept = dict(recovered.records())
    assert is_prefix(kept, model)
    assert sequences[0] - 1 <= len(kept) < len(model)
    assert recovered.found.torn_bytes > 0


def test_a_lost_sector_of_an_older_commit_is_damage() -> None:
    disk, model = written([[received(0, 100), received(1, 100)], [Trained(1)]])
    (name,) = disk.files
    data = bytearray(disk.files[name].content)
    data[HEADER_BYTES:SECTOR_BYTES] = bytes(SECTOR_BYTES - HEADER_BYTES)
    with pytest.raises(UserError, match=f"{name} at byte {HEADER_BYTES}"):
        read_all(FaultyDisk.of({name: bytes(data)}))


def test_a_lost_sector_of_an_older_file_is_damage() -> None:
    disk, model = written([[received(0, 900), received(1, 900), received(2, 900)], [Trained(1)]])
    name = min(disk.files)
    assert len(disk.files) == 2
    data = bytearray(disk.files[name].content)
    data[SECTOR_BYTES : 2 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    broken = FaultyDisk.of({**disk.contents(), name: bytes(data)})
    with pytest.raises(UserError, match="records 1 to 1"):
        read_all(broken)
    kept, counts = salvaged(broken)
    assert (sorted(kept), counts.lost_records) == ([2, 3, 4], 1)


def test_a_lost_sector_is_zero_from_the_start_or_from_its_own_to_its_end() -> None:
    data = b"x" * 700 + bytes(324) + b"x" * 512 + bytes(512)
    assert [holds_lost_sector(data, *place) for place in ((700, 1024), (700, 1023), (699, 1024), (1100, 2048), (1100, 2000))] == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_a_file_without_a_record_is_no_damage() -> None:
    disk, model = written([[Trained(1)]])
    (name,) = disk.files
    disk.files[name].content[HEADER_BYTES:] = b""
    journal, recovered = opened(disk)
    assert isinstance(recovered, Recovered)
    assert list(recovered.records()) == []
    journal.append(Trained(2))
    journal.commit()
    assert list(disk.files) == [segment_name(1)]
    assert disk.size(name) > HEADER_BYTES + FRAME_BYTES
    assert dict(read_all(disk).records()) == {1: Trained(2)}
