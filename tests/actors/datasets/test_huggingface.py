from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.datasets import libraries
from actors.datasets.fields import Fields
from actors.datasets.readers import huggingface
from protocol.errors import UserError
from tests.actors.datasets.sounds import encoded, noise
from tests.actors.datasets.sources import read, wav

HEARD = noise(1).tobytes()


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
