from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.datasets import formats, libraries
from actors.datasets.fields import Fields
from actors.datasets.readers import huggingface
from protocol.errors import UserError
from tests.actors.datasets.sounds import encoded, imported, noise, said

HEARD = noise(1).tobytes()


def jsonl(path: Path, *lines: Any) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return path


def wav(folder: Path, name: str = "one.wav", frames: int = 800) -> str:
    (folder / name).write_bytes(encoded(noise(1, frames), form="WAV"))
    return name


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def read(source: Path, out: Path, *columns: str, constants: Sequence[str] = (), **options: Any) -> list[Any]:
    """All that a source says, by way of the importer."""
    fields = Fields.parse(columns, constants)
    records = formats.read(str(source), formats.guess(str(source)), fields, options.pop("split", None))
    return said(imported(records, out, fields=fields, **options)[0])


# --- NeMo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "instruction", "reference", "prompt", "language"),
    [
        ({"text": "hi", "answer": "hello"}, "hi", "hello", "", "en"),
        ({"text": "hi", "source_lang": "en", "target_lang": "en", "pnc": "yes"}, "hi", "hi", "", "en"),
        ({"text": "hallo", "source_lang": "en", "target_lang": "de"}, "", "hallo", "", "de"),
        ({"text": "four", "context": "Answer:"}, "", "four", "Answer:", "en"),
    ],
)
def test_nemo(tmp_path: Path, line: dict[str, Any], instruction: str, reference: str, prompt: str, language: str) -> None:
    source = jsonl(tmp_path / "list.json", {"audio_filepath": wav(tmp_path), "duration": 0.05, **line})
    [((*texts, _, _), [(_, heard)])] = read(source, tmp_path / "out")
    assert texts == [instruction, reference, prompt, "other", language]
    assert heard == HEARD


def test_nemo_names_a_part_of_a_file(tmp_path: Path) -> None:
    name = wav(tmp_path, frames=16_000)
    lines = [
        {"audio_filepath": name, "offset": at, "duration": 0.25, "text": "hi", "answer": "a", "speaker": str(at)} for at in (0.25, 0.5)
    ]
    (_, [(_, first)]), (_, [(_, second)]) = read(jsonl(tmp_path / "list.jsonl", *lines), tmp_path / "out")
    assert (first, second) == (noise(1, 16_000)[4000:8000].tobytes(), noise(1, 16_000)[8000:12_000].tobytes())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"audio_filepath": "one.wav"', "not JSON"),
        ("[]", "not a JSON object"),
        ({"text": "hi", "answer": "a"}, "no path in audio_filepath"),
        ({"audio_filepath": ["one.wav"], "answer": "a"}, "no path in audio_filepath"),
        ({"audio_filepath": "one.wav", "offset": "0", "answer": "a"}, "offset is '0'"),
        ({"audio_filepath": "one.wav", "offset": 0, "duration": -1, "answer": "a"}, "duration is -1"),
        ({"audio_filepath": "gone.wav", "answer": "a"}, "gone.wav cannot be read"),
        ({"audio_filepath": "one.wav", "text": "hi"}, "no reference; name it with --column reference"),
    ],
)
def test_nemo_mistakes_name_file_and_line(tmp_path: Path, line: Any, what: str) -> None:
    good = {"audio_filepath": wav(tmp_path), "text": "hi", "answer": "a"}
    with pytest.raises(UserError, match=f"list.jsonl, line 2: .*{what}"):
        read(jsonl(tmp_path / "list.jsonl", good, line), tmp_path / "out")


# --- ms-swift -----------------------------------------------------------------------------------------------


def turns(user: str, answer: str = "a") -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def test_swift(tmp_path: Path) -> None:
    content = base64.b64encode(encoded(noise(1))).decode()
    lines = [
        {"messages": turns("<audio>Translate:"), "audios": [wav(tmp_path)], "rejected_response": "no"},
        {"messages": turns("<audio>"), "audios": [f"data:audio/flac;base64,{content}"]},
        {"messages": turns("hi")},
    ]
    first, second, third = read(jsonl(tmp_path / "data.jsonl", *lines), tmp_path / "out")
    assert (first[0][:3], first[1]) == (("", "a", "Translate:"), [("voice-1", HEARD)])
    assert (second[0][:3], second[1]) == (("", "a", ""), [("voice-1", HEARD)])
    assert (third[0][:3], third[1]) == (("hi", "a", ""), [("text", None)])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"messages": "hi"}, "no messages with a role"),
        ({"messages": [{"role": "system", "content": "be good"}, *turns("hi")]}, "a system message"),
        ({"messages": turns("hi") * 2}, "messages of user, assistant, user, assistant"),
        ({"messages": turns("<audio><audio>"), "audios": ["a", "b"]}, "more than one audio"),
        ({"messages": turns("<audio>")}, "without an entry in audios"),
        ({"messages": turns("<audio>"), "audios": ["https://x/y.wav"]}, "not on this machine"),
        ({"messages": turns("<audio>"), "audios": [7]}, "no path"),
        ({"messages": turns("<audio>"), "audios": ["data:audio/wav;base64,?"]}, "not base64"),
        ({"messages": [{"role": "user", "content": []}, turns("")[1]]}, "not text"),
    ],
)
def test_swift_mistakes_name_file_and_line(tmp_path: Path, line: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"data.jsonl, line 3: .*{what}"):
        read(jsonl(tmp_path / "data.jsonl", {"messages": turns("hi")}, "", line), tmp_path / "out")


# --- tar files ----------------------------------------------------------------------------------------------


def test_webdataset(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    flac, note = encoded(noise(1)), json.dumps({"text": "hi", "reference": "a", "speaker": "anna"}).encode()
    tar(tmp_path / "shards" / "b.tar", [("d/2.x.flac", flac), ("d/2.txt", b"bye"), ("d/2.answer.txt", b"b")])
    tar(tmp_path / "shards" / "a.tar", [("__meta__.json", b"x"), ("1.json", note), ("1.FLAC", flac), ("readme", b"x")])
    [first] = read(tmp_path / "shards" / "a.tar", tmp_path / "a")
    [second] = read(tmp_path / "shards" / "b.tar", tmp_path / "b", "reference=answer.txt")
    assert (first[0][:2], first[0][5], first[1]) == (("hi", "a"), "1", [("anna", HEARD)])
    assert (second[0][:2], second[0][5], second[1]) == (("bye", "b"), "d/2", [("voice-1", HEARD)])


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([("1.flac", b""), ("1.wav", b""), ("1.json", b"{}")], "several audio files: flac, wav"),
        ([("1.flac", b""), ("1.flac", b"")], "two members 1.flac"),
        ([("1.json", b"{")], "sample 1: not JSON"),
        ([("1.txt", b"\xff")], "sample 1: txt is not text"),
    ],
)
def test_webdataset_mistakes_name_file_and_sample(tmp_path: Path, members: list[tuple[str, bytes]], what: str) -> None:
    with pytest.raises(UserError, match=f"(?s)x.tar.*{what}"):
        read(tar(tmp_path / "x.tar", members), tmp_path / "out")


def test_a_torn_tar_file_is_told(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [("1.flac", bytes(4000))])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"x\.tar, at 1\.flac: the tar file is damaged"):
        read(path, tmp_path / "out")


def shar(folder: Path, cuts: list[dict[str, Any]], recordings: Sequence[tuple[str, bytes]]) -> Path:
    folder.mkdir()
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, cuts)).encode()))
    tar(folder / "recording.000000.tar", recordings)
    return folder


CUT = {"id": "c.1", "supervisions": [{"text": "hi", "speaker": "anna"}], "custom": {"reference": "a"}}


def test_shar_without_a_recording_is_plain_text(tmp_path: Path) -> None:
    source = shar(tmp_path / "shar", [CUT], [("c.1.nodata", b""), ("c.1.nometa", b"")])
    [(texts, spoken)] = read(source, tmp_path / "out")
    assert (texts[:2], spoken) == (("hi", "a"), [("anna", None)])


@pytest.mark.parametrize(
    ("cuts", "recordings", "what"),
    [
        ([CUT, {"id": "c2"}], [("c.1.flac", encoded(noise(1))), ("c.1.json", b"")], "line 2: the cut 'c2' stands where .* nothing more"),
        ([CUT], [("x.flac", b""), ("x.json", b"")], "line 1: the cut 'c.1' stands where recording.000000.tar has 'x'"),
        ([CUT], [("c.1.flac", encoded(noise(1))), ("c.1.json", b""), ("d.flac", b""), ("d.json", b"")], "'d' is in no line of cuts"),
        ([{**CUT, "supervisions": [{}, {}]}], [("c.1.flac", b""), ("c.1.json", b"")], "2 supervisions"),
    ],
)
def test_shar_mistakes_name_file_and_line(tmp_path: Path, cuts: list[Any], recordings: list[Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        read(shar(tmp_path / "shar", cuts, recordings), tmp_path / "out")


def test_shards_without_their_recordings_are_told(tmp_path: Path) -> None:
    source = shar(tmp_path / "shar", [CUT], [])
    (source / "recording.000000.tar").unlink()
    with pytest.raises(UserError, match=r"1 files cuts.* and 0 files recording"):
        read(source, tmp_path / "out")


def test_a_torn_gzip_file_is_told(tmp_path: Path) -> None:
    source = shar(tmp_path / "shar", [CUT] * 2, [("c.1.flac", encoded(noise(1))), ("c.1.json", b"")] * 2)
    manifest = source / "cuts.000000.jsonl.gz"
    manifest.write_bytes(manifest.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"cuts.000000.jsonl.gz, after line \d: the file is damaged"):
        read(source, tmp_path / "out")


# --- Hugging Face -------------------------------------------------------------------------------------------


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_with_bytes_or_paths(tmp_path: Path) -> None:
    audio = [{"bytes": encoded(noise(1)), "path": None}, {"bytes": None, "path": wav(tmp_path)}, None]
    source = parquet(tmp_path / "x.parquet", sound=audio, sentence=["a", "b", "c"], response=["x", "y", "z"])
    spoken = [(texts[:2], heard) for texts, [(_, heard)] in read(source, tmp_path / "out")]
    assert spoken == [(("a", "x"), HEARD), (("b", "y"), HEARD), (("c", "z"), None)]


def test_a_column_of_paths(tmp_path: Path) -> None:
    source = parquet(tmp_path / "x.parquet", file=[wav(tmp_path)], text=["a"], answers=[{"text": ["x", "y"], "answer_start": [0, 1]}])
    [(texts, [(_, heard)])] = read(source, tmp_path / "out", "audio=file", "reference=answers.text")
    assert (texts[1], texts[6], heard) == ("x", ("x", "y"), HEARD)


def test_splits_are_chosen(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        parquet(tmp_path / "set" / "data" / f"{name}.parquet", text=[name], answer=["x"])
    found = read(tmp_path / "set", tmp_path / "out", split="train")
    assert [texts[0] for texts, _ in found] == ["train-00000-of-00002", "train-00001-of-00002"]
    for split, what in ((None, "several splits: test, train"), ("dev", "no split 'dev': test, train")):
        with pytest.raises(UserError, match=what):
            read(tmp_path / "set", tmp_path / "other", split=split)


@pytest.mark.parametrize(
    ("columns", "options", "what"),
    [
        ({"text": ["a"], "answer": ["x"]}, ["audio=sound"], "no column 'sound'; there are: text, answer"),
        ({"text": ["a"], "answer": ["x"], "audio": [5]}, [], "row 1: audio is no audio"),
        ({"text": ["a"], "answer": ["x"]}, ["reference=says"], "row 1: no 'says'; there are: text, answer"),
        ({"a": [{"bytes": b"", "path": ""}], "b": [{"bytes": b"", "path": ""}], "answer": ["x"]}, [], "several columns of audio: a, b"),
        ({"text": ["a"], "answer": ["x"], "audio": [{"bytes": b"junk", "path": None}]}, [], "row 1: no audio that can be decoded"),
    ],
)
def test_mistakes_in_parquet_name_file_and_row(tmp_path: Path, columns: dict[str, Any], options: list[str], what: str) -> None:
    with pytest.raises(UserError, match=f"x.parquet.*{what}"):
        read(parquet(tmp_path / "x.parquet", **columns), tmp_path / "out", *options)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_file_that_is_something_else_is_told(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(b"something else entirely")
    with pytest.raises(UserError, match=f"x.{suffix}, after row 0: it cannot be read"):
        read(tmp_path / f"x.{suffix}", tmp_path / "out")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nowhere: arrows is not installed, .*; pip install 'rba\[formats\]'"):
        libraries.library("arrows.parquet", "nowhere")


def test_a_name_that_the_hub_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("no such data set\nreally")))
    with pytest.raises(UserError, match=r"nobody/nothing: it cannot be read \(no such data set\)"):
        list(huggingface.records("nobody/nothing", Fields()))


# --- which one it is ----------------------------------------------------------------------------------------


def test_a_path_that_is_not_clear_asks_for_the_format(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b")
    jsonl(tmp_path / "x.jsonl", {"text": "hi"})
    for name in ("x.csv", "x.jsonl", "."):
        with pytest.raises(UserError, match="name it with --format: hf, nemo, swift, shar, webdataset"):
            formats.guess(str(tmp_path / name))
    with pytest.raises(UserError, match="no such file"):
        formats.guess(str(tmp_path / "gone"))
    assert formats.guess("owner/name") == "hf"


def test_splits_are_for_hugging_face_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nemo has no splits"):
        formats.read(str(jsonl(tmp_path / "x.jsonl")), "nemo", Fields(), split="train")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    schema = pa.schema([("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())])
    for suffix in ("parquet", "arrow"):
        path = tmp_path / f"x.{suffix}"
        with pq.ParquetWriter(path, schema) if suffix == "parquet" else pa.ipc.new_stream(path, schema) as writer:
            for number in range(120):
                row = {"audio": {"bytes": noise(number, 100_000).tobytes(), "path": None}, "text": "hi"}
                writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
        held = [pa.total_allocated_bytes() for _ in huggingface.records(path, Fields())]
        assert len(held) == 120
        assert max(held) < 8e6, f"{suffix}: of 24 MB"
