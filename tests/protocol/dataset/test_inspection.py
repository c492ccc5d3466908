from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.audio import audio_hash
from protocol.dataset import DataSetWriter, ManifestWriter
from protocol.dataset.inspection import inspect
from protocol.errors import UserError
from protocol.messages import InstructionGroup, Utterance
from tests.protocol.dataset.making import flac, write


def changed(path: Path, **fields: object) -> None:
    """Change fields of the first recording, and the manifest's entry with them."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["utterances"][1].update(fields)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path.parent / "dataset.json").unlink(missing_ok=True)


def recorded(clip: bytes) -> Callable[[Path], None]:
    """A data set whose first recording is `clip`."""

    def make(path: Path) -> None:
        write(path.parent, clips=[clip, *(flac(pitch) for pitch in range(5))])

    return make


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("reference 1", "reference 2"))


def without_shard(path: Path) -> None:
    (path.parent / "shards" / "train-0.tar").unlink()


def cut(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        shard = path.parent / "shards" / "train-0.tar"
        shard.write_bytes(shard.read_bytes()[:size])

    return make


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def lines(*bad: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole = path.read_text().splitlines()
        path.write_text("\n".join([*bad, *whole]) + "\n")
        (path.parent / "dataset.json").unlink()

    return make


def flipped(path: Path) -> None:
    shard = path.parent / "shards" / "train-0.tar"
    content = bytearray(shard.read_bytes())
    content[512 + 90] ^= 1
    shard.write_bytes(content)


SMALL = len(flac(0))
DAMAGES: dict[str, tuple[Callable[[Path], object], bool, int, str]] = {
    "not JSON": (lines("hello"), False, 1, "not JSON"),
    "another schema": (lines("[]"), False, 1, "not an instruction group"),
    "a repeated id": (lambda path: lines(path.read_text().splitlines()[0])(path), False, 2, "line 1 already"),
    "no shard": (without_shard, False, 1, "train-0.tar cannot be read"),
    "another offset": (lambda path: changed(path, offset=1024), False, 1, "no member of"),
    "an offset within": (lambda path: changed(path, offset=513), False, 1, "no member of"),
    "an offset in a header": (lambda path: changed(path, offset=0), False, 1, "no member of"),
    "another size": (lambda path: changed(path, size_bytes=SMALL - 1), False, 1, "no member of"),
    "beyond the end": (lambda path: changed(path, offset=1 << 40), False, 1, "would end at"),
    "another hash": (lambda path: changed(path, audio=audio_hash(b"")), True, 1, "the content is not that of"),
    "a flipped bit": (flipped, True, 1, "the content is not that of"),
    "no audio": (recorded(b"hello"), True, 1, "decoded"),
    "stereo": (recorded(flac(0, channels=2)), True, 1, "2 channels"),
    "another rate": (recorded(flac(0, rate=8000)), True, 1, "8000 Hz"),
    "too long": (recorded(flac(0, seconds=1.5)), True, 1, "1.50 s long"),
    "silence": (recorded(flac(0, loudness=0.0)), True, 1, "silent"),
    "another duration": (lambda path: changed(path, duration_s=0.5), True, 1, "0.050 s"),
    "an edited manifest": (edited, False, 0, "changed since it was finished"),
    "a torn manifest": (torn, False, 3, "not JSON"),
    "no manifest": (lambda path: path.unlink(), False, 0, "cannot be read"),
    "a shard without its end": (cut(-512), False, 0, "cut off"),
    "half a shard": (cut(1500), False, 2, "would end at"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    damage, hear, line, what = DAMAGES[name]
    path = write(tmp_path)
    damage(path)
    found = inspect(tmp_path, hear=hear, max_audio_s=1.0).findings
    assert any(what in finding.what and finding.line == line for finding in found), found


@pytest.mark.parametrize("hear", [True, False])
def test_a_whole_data_set_has_no_findings(tmp_path: Path, hear: bool) -> None:
    path = write(tmp_path, groups=5)
    write(tmp_path, "test.jsonl", first=10)
    for each in (tmp_path, path):
        found = inspect(each, hear=hear)
        assert not found.findings
        assert found.manifests[-1].groups == 5
    assert [one.name for one in inspect(str(tmp_path)).manifests] == ["test.jsonl", "train.jsonl"]


def test_all_findings_are_told_in_the_order_of_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path)
    lines("hello", "[]")(path)
    without_shard(path)
    assert [finding.line for finding in inspect(path).findings] == [1, 2, 3, 3, 4, 4]


def test_loose_files_are_looked_at_too(tmp_path: Path) -> None:
    with ManifestWriter(tmp_path / "train.jsonl") as writer:
        clips = [flac(0), flac(1)]
        writer.add(InstructionGroup("g", "i", "r", [Utterance("a", writer.add_audio(clip), 0.05) for clip in clips]))
    assert not inspect(tmp_path, hear=True).findings
    first, second = (tmp_path / f"audio/{audio_hash(clip)[7:9]}/{audio_hash(clip)[7:]}.flac" for clip in clips)
    first.unlink()
    second.write_bytes(flac(2))
    assert [finding.what.partition(" (")[0] for finding in inspect(tmp_path, hear=True).findings] == ["utterance 1", "utterance 2"]


def test_an_instruction_on_two_sides_of_the_splits_is_found(tmp_path: Path) -> None:
    write(tmp_path, groups=3)
    write(tmp_path, "train-more.jsonl", groups=3)
    write(tmp_path, "test.jsonl", groups=2, first=2)
    told = [str(finding) for finding in inspect(tmp_path).findings]
    assert len(told) == 2
    assert all("test.jsonl, line 1: the instruction stands in train" in each for each in told)


def test_a_growing_manifest_may_have_a_torn_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    with DataSetWriter(tmp_path) as writer:
        writer.manifest(path.name, path.stat().st_size)
    torn(path)
    found = inspect(tmp_path)
    assert not found.findings
    assert found.manifests[0].growing
    assert found.manifests[0].groups == 2


@pytest.mark.parametrize("name", ["none.jsonl", "nowhere", "empty"])
def test_what_is_no_data_set_is_the_users_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        inspect(tmp_path / name)
