from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.datasets import formats
from actors.datasets.fields import Fields
from protocol.errors import UserError
from tests.actors.datasets.sounds import encoded, noise
from tests.actors.datasets.sources import jsonl, read, tar, wav

HEARD = noise(1).tobytes()


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
