from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.audio import audio_hash
from protocol.dataset import DataSet, DataSetWriter, Location, ManifestAppender, ShardWriter
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance
from tests.protocol.dataset.making import append, flac, write

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FILLED = TEXT.filter(str.strip)
CLIPS = [flac(pitch) for pitch in range(6)]


@st.composite
def groups(draw: st.DrawFn) -> list[InstructionGroup]:
    ids = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
    made = []
    for group_id in ids:
        clips = draw(st.lists(st.sampled_from(CLIPS), max_size=3))
        utterances = [Utterance(draw(TEXT), audio_hash(clip), draw(st.floats(0, 30))) for clip in clips]
        utterances += [Utterance("text")] if not utterances or draw(st.booleans()) else []
        fields = {"prompt": draw(TEXT), "topic": draw(TEXT), "language": draw(TEXT), "answers": draw(st.lists(TEXT, max_size=2))}
        made.append(InstructionGroup(group_id, draw(FILLED), draw(FILLED), utterances, **fields))
    return made


@settings(deadline=None, max_examples=50)
@given(made=groups())
def test_any_groups_written_are_read_back_with_their_audio(tmp_path_factory: pytest.TempPathFactory, made: list[InstructionGroup]) -> None:
    folders = [tmp_path_factory.mktemp("data") for _ in range(2)]
    for folder in folders:
        with DataSetWriter(folder) as writer:
            manifest, locations = writer.manifest("train.jsonl"), {}
            with writer.shard("shards/0.tar") as shard:
                for clip in CLIPS:
                    stored = shard.add(clip)
                    locations[stored.audio] = Location("shards/0.tar", stored.offset, stored.size_bytes)
            for group in made:
                manifest.append(group, locations)
            writer.finish()
    for name in ("train.jsonl", "shards/0.tar", "dataset.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    data = DataSet.open(folders[0] / "train.jsonl")
    assert list(data.groups) == made
    assert not data.growing
    clips = {audio_hash(clip): clip for clip in CLIPS}
    for group, audio in data.spoken():
        assert audio == [clips[one.audio] for one in group.utterances if one.audio]
        assert all(data.has(one.audio) and data.read_audio(one.audio) == clips[one.audio] for one in group.utterances if one.audio)
    assert not data.has(audio_hash(b"unknown"))
    assert not data.has("four.flac")


def test_a_reader_sees_whole_lines_while_a_writer_appends(tmp_path: Path) -> None:
    clips = [flac(pitch) for pitch in range(8)]
    with DataSetWriter(tmp_path) as writer:
        manifest = writer.manifest("train.jsonl")
        append(writer, manifest, "shards/0.tar", range(2), clips)
        early = DataSet.open(tmp_path / "train.jsonl")
        append(writer, manifest, "shards/1.tar", range(2, 4), clips)
        late = DataSet.open(tmp_path / "train.jsonl")
        assert [len(early.groups), len(late.groups)] == [2, 4]
        assert early.growing
        assert [group.group_id for group in early.groups] == ["g0", "g1"]
        assert len(early.samples(early.groups[1].utterances[1].audio)) == 800
        writer.finish()
    assert not DataSet.open(tmp_path / "train.jsonl").growing


@pytest.mark.parametrize("growing", [True, False])
def test_a_manifest_cut_off_at_any_byte_is_a_prefix_while_it_grows_and_damage_afterwards(tmp_path: Path, growing: bool) -> None:
    path = write(tmp_path, groups=3)
    if growing:
        with DataSetWriter(tmp_path) as writer:
            writer.manifest(path.name, path.stat().st_size)
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        whole = sum(end <= size for end in ends)
        if growing and whole:
            assert [group.group_id for group in DataSet.open(path).groups] == [f"g{number}" for number in range(whole)]
        else:
            with pytest.raises(UserError):
                DataSet.open(path)


# --- writers that end, and writers that meet ----------------------------------------------------------------


def test_a_writer_goes_on_where_it_had_committed(tmp_path: Path) -> None:
    straight = write(tmp_path / "straight", groups=4)
    clips = [flac(number) for number in range(8)]
    with DataSetWriter(tmp_path / "broken") as writer:
        manifest = writer.manifest("train.jsonl")
        append(writer, manifest, "shards/train-0.tar", range(2), clips)
        committed = manifest.commit()
        append(writer, manifest, "shards/train-2.tar", range(2, 4), clips)
        # it ends between the lines and its own record of them
    with DataSetWriter(tmp_path / "broken") as writer:
        manifest = writer.manifest("train.jsonl", committed)
        append(writer, manifest, "shards/train-2.tar", range(2, 4), clips)
        writer.finish()
    assert (tmp_path / "broken" / "train.jsonl").read_bytes() == straight.read_bytes()


def test_a_shard_that_no_line_names_is_written_again(tmp_path: Path) -> None:
    clips = [flac(number) for number in range(4)]
    with DataSetWriter(tmp_path) as writer:
        manifest = writer.manifest("train.jsonl")
        with writer.shard("shards/0.tar") as shard:
            shard.add(clips[0])
    assert (tmp_path / "shards" / "0.tar").exists()
    with DataSetWriter(tmp_path) as writer:
        manifest = writer.manifest("train.jsonl", 0)
        append(writer, manifest, "shards/0.tar", range(2), clips)
        writer.finish()
    assert [len(audio) for _, audio in DataSet.open(tmp_path / "train.jsonl").spoken()] == [2, 2]


def test_what_was_not_committed_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    manifest = ManifestAppender(path)
    manifest.append(InstructionGroup("g0", "i", "r", [Utterance("text")]), {})
    size = manifest.commit()
    manifest.append(InstructionGroup("g1", "i", "r" * (1 << 20), [Utterance("text")]), {})
    assert path.stat().st_size > size
    manifest.close()
    assert path.stat().st_size == size
    with path.open("ab") as file:
        file.write(b'{"torn')
    again = ManifestAppender(path, size)
    assert path.stat().st_size == size
    again.close()
    assert [group.group_id for group in DataSet.open(path).groups] == ["g0"]


def test_a_manifest_shorter_than_what_was_committed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(UserError, match="were committed"):
        ManifestAppender(path, path.stat().st_size + 1)


HOLD = """
import sys, pathlib
from protocol.dataset import DataSetWriter
with DataSetWriter(pathlib.Path(sys.argv[1])) as writer:
    writer.manifest("train.jsonl")
    print("holds it", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_told_who_writes_until_that_one_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds it\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"):
            DataSetWriter(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with DataSetWriter(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        DataSetWriter(tmp_path)
    DataSetWriter(tmp_path).__exit__(None, None, None)


def test_a_shard_is_written_in_a_block(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        ShardWriter(tmp_path / "0.tar").add(b"")


# --- kills ---------------------------------------------------------------------------------------------------

GROUPS = 12
WRITE = """
import sys, pathlib
from protocol.dataset import DataSetWriter
from tests.protocol.dataset.making import append, flac
folder, groups, done, committed = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
clips = [flac(number) for number in range(2 * groups)]
with DataSetWriter(folder) as writer:
    manifest = writer.manifest("train.jsonl", committed)
    for start in range(done, groups, 2):
        append(writer, manifest, f"shards/train-{start}.tar", range(start, start + 2), clips)
        print(start + 2, manifest.commit(), flush=True)
        sys.stdin.readline()
    writer.finish()
"""


@pytest.mark.parametrize("kill_after", [1, 3, 6])
def test_a_killed_writer_leaves_whole_lines_and_its_successor_the_same_bytes(tmp_path: Path, kill_after: int) -> None:
    straight, path, done, committed = write(tmp_path / "straight", groups=GROUPS), tmp_path / "killed" / "train.jsonl", 0, 0
    for life in range(2):
        arguments = [sys.executable, "-c", WRITE, str(path.parent), *map(str, (GROUPS, done, committed))]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            for written, line in enumerate(iter(writer.stdout.readline, ""), 1):
                done, committed = map(int, line.split())
                if life == 0 and written > kill_after - 1:
                    writer.stdin.write("\n")  # it goes on to the next shard, and is killed somewhere in it
                    writer.stdin.flush()
                    os.kill(writer.pid, signal.SIGKILL)
                    break
                data = DataSet.open(path)
                assert len(data.groups) == done
                assert all(len(audio) == 2 for _, audio in data.spoken())
                writer.stdin.write("\n")
                writer.stdin.flush()
        data = DataSet.open(path)
        assert [group.group_id for group in data.groups] == [f"g{number}" for number in range(len(data.groups))]
        assert all(len(audio) == 2 for _, audio in data.spoken())
    for name in ("train.jsonl", "dataset.json", *(f"shards/train-{start}.tar" for start in range(0, GROUPS, 2))):
        assert (path.parent / name).read_bytes() == (straight.parent / name).read_bytes()


def test_a_disk_that_fills_up_within_a_line_shows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [InstructionGroup(f"g{number}", "i", "r", [Utterance("text")]) for number in range(2)]
    with DataSetWriter(tmp_path) as writer:
        manifest = writer.manifest("train.jsonl")
        manifest.append(made[0], {})
        committed = manifest.commit()
        manifest.append(made[1], {})
        left, pwrite = [20], os.pwrite

        def full(handle: int, content: bytes, offset: int) -> int:
            written, left[0] = min(left[0], len(content)), max(0, left[0] - len(content))
            if not written:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(handle, bytes(content[:written]), offset)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="the disk is full"):
            manifest.commit()
        assert (tmp_path / "train.jsonl").stat().st_size == committed + 20
        assert list(DataSet.open(tmp_path / "train.jsonl").groups) == made[:1]
        monkeypatch.undo()
        manifest.commit()  # there is room again
        writer.finish()
    assert list(DataSet.open(tmp_path / "train.jsonl").groups) == made


def test_the_name_of_a_new_manifest_is_made_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[set[str]] = []
    monkeypatch.setattr("protocol.dataset.writer.sync_folder", lambda folder: synced.append({path.name for path in folder.iterdir()}))
    with DataSetWriter(tmp_path) as writer:
        writer.manifest("train.jsonl").commit()
    assert any("train.jsonl" in names for names in synced)
