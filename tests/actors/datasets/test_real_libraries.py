"""What others write is read, and what is written others read: with `datasets`, `lhotse` and `webdataset` themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from actors.datasets import formats
from actors.datasets.draft import draft
from actors.datasets.examples import examples
from actors.datasets.fields import Fields
from actors.datasets.readers import huggingface
from actors.datasets.writers import huggingface as hf_writer
from actors.datasets.writers import shar, voicebench
from tests.actors.datasets.sounds import decoded, encoded, imported, listed, noise, said, small


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(found: Any) -> list[dict[str, Any]]:
    """Of a data set of theirs, with its audio as bytes."""
    return list(found.cast_column("audio", datasets.Audio(decode=False)))


@pytest.mark.parametrize("saved", [False, True])
def test_datasets_sees_a_column_of_audio(tmp_path: Path, saved: bool) -> None:
    data = small(tmp_path / "native")
    with draft(tmp_path / "out") as folder:
        (hf_writer.save if saved else hf_writer.write)(examples(data), folder, "test")
    if saved:
        found = datasets.load_from_disk(tmp_path / "out")
    else:
        found = datasets.load_dataset("parquet", data_files=str(tmp_path / "out/data/*.parquet"), split="train")
        assert datasets.load_dataset(str(tmp_path / "out"), split="test").features == found.features
    assert found.features["audio"] == datasets.Audio(sampling_rate=16_000)
    assert found.features["answers"] == datasets.List(datasets.Value("string"))
    read = rows(found)
    assert [row["speaker"] for row in read] == ["anna", "bob", "text", "ćira"]
    assert [row["audio"] and decoded(row["audio"]["bytes"]).tolist() for row in read] == [
        each.clip and decoded(each.clip.content).tolist() for each in listed(data)
    ]
    assert (read[0]["answers"], read[3]["prompt"], read[3]["language"]) == (["blue", "red"], "Auf Deutsch:", "de")


def theirs(folder: Path) -> datasets.Dataset:
    """Rows as many sets on the Hub have them: 44.1 kHz in stereo, text and translations in columns of their own."""
    audio = [{"bytes": encoded(noise(n, 4410, channels=2), 44_100, "WAV"), "path": f"{n}.wav"} for n in range(5)]
    table = {"audio": audio, "sentence": list("abcde"), "translation": [{"de": each.upper(), "fr": "?"} for each in "abcde"]}
    return datasets.Dataset.from_dict(table).cast_column("audio", datasets.Audio())


@pytest.mark.parametrize("how", ["parquet", "saved", "split", "hub"])
def test_what_datasets_writes_is_read(tmp_path: Path, how: str) -> None:
    made, place = theirs(tmp_path), tmp_path / "theirs"
    match how:
        case "parquet" | "hub":
            place.mkdir()
            made.to_parquet(place / "train-00000-of-00001.parquet", batch_size=2)
        case "saved":
            made.select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0]).save_to_disk(place, num_shards=2)
        case "split":
            datasets.DatasetDict(train=made, test=made.select([0])).save_to_disk(place)
    fields = Fields.parse(["reference=translation.de"], ["language=de"])
    if how == "hub":  # a name is opened by the same function as a folder is
        found = huggingface._hub(str(place), fields, "train", None)
    else:
        found = formats.read(str(place), formats.guess(str(place)), fields, "train" if how == "split" else None)
    data, done = imported(found, tmp_path / "out", fields=fields)
    assert [(group.instruction, group.reference, group.language) for group in data.groups] == [
        (each, each.upper(), "de") for each in "abcde"
    ]
    assert done.converted == {"mixed to mono": 5, "resampled": 5}
    assert [each.clip.frames for each in listed(data) if each.clip] == [1600] * 5


def test_pictures_are_no_audio(tmp_path: Path) -> None:
    """Their columns look alike, but for the features."""
    table = {"picture": [{"bytes": b"png", "path": None}], "speech": [{"bytes": encoded(noise(1)), "path": None}], "text": ["a"]}
    made = datasets.Dataset.from_dict({**table, "answer": ["b"]}).cast_column("speech", datasets.Audio())
    made.cast_column("picture", datasets.Image()).to_parquet(tmp_path / "x.parquet")
    data, _ = imported(formats.read(str(tmp_path / "x.parquet"), "hf", Fields()), tmp_path / "out")
    assert said(data)[0][1] == [("voice-1", noise(1).tobytes())]


def test_voicebench_has_its_columns(tmp_path: Path) -> None:
    data = small(tmp_path / "native")
    counts = voicebench.write(examples(data), tmp_path / "vb", "test")
    assert counts == {"rows": 3, "utterances without audio left out": 1}
    found = datasets.load_dataset(str(tmp_path / "vb"), split="test").cast_column("audio", datasets.Audio(sampling_rate=16_000))
    assert found.features["audio"].sampling_rate == 16_000
    assert next((row["prompt"], row["reference"], row["speaker"]) for row in rows(found)) == ("name a colour", "blue, “deep”", "anna")
    voicebench.write(examples(data), tmp_path / "open", "test", open_ended=True)
    assert "reference" not in datasets.load_dataset(str(tmp_path / "open"), split="test").features


# --- Lhotse -------------------------------------------------------------------------------------------------


def test_what_lhotse_writes_is_read(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    from lhotse.shar import SharWriter

    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=2) as writer:
        for number in range(3):
            (tmp_path / f"{number}.wav").write_bytes(encoded(noise(number, 16_000), form="WAV"))
            recording = lhotse.Recording.from_file(tmp_path / f"{number}.wav")
            span = {"start": 0, "duration": 0.5, "channel": 0}
            supervision = lhotse.SupervisionSegment(str(number), recording.id, **span, text="hi", speaker="anna", custom={"answer": "a"})
            cut = lhotse.MonoCut(f"cut.{number}", 0.25, 0.5, 0, [supervision], recording=recording, custom={"topic": "greetings"})
            writer.write(cut)
    data = imported(formats.read(str(tmp_path / "shar"), formats.guess(str(tmp_path / "shar")), Fields()), tmp_path / "out")[0]
    assert said(data) == [
        (("hi", "a", "", "greetings", "en", f"cut.{n}", ()), [("anna", noise(n, 16_000)[4000:12_000].tobytes())]) for n in range(3)
    ]


def test_what_is_written_lhotse_reads(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    data = small(tmp_path / "native")
    with draft(tmp_path / "out") as folder:
        shar.write(examples(data), folder)
    cuts = list(lhotse.CutSet.from_shar(in_dir=tmp_path / "out"))
    lhotse.qa.validate(lhotse.CutSet.from_cuts(cuts))
    spoken = [each for each in listed(data) if each.clip]
    assert [cut.supervisions[0].speaker for cut in cuts] == ["anna", "bob", "ćira"]
    assert [(cut.supervisions[0].text, cut.reference, cut.group_id) for cut in cuts][2] == ("good morning", "guten Morgen", "b 2")
    for cut, each in zip(cuts, spoken, strict=True):
        assert each.clip is not None
        assert np.array_equal(np.round(cut.load_audio()[0] * 32768), decoded(each.clip.content))


# --- WebDataset ---------------------------------------------------------------------------------------------


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "set-%06d.tar"), maxcount=2, verbose=0) as sink:
        for number in range(3):
            sink.write({"__key__": f"clip{number}", "flac": encoded(noise(number)), "json": {"text": "hi", "reference": str(number)}})
    data = imported(formats.read(str(tmp_path), formats.guess(str(tmp_path)), Fields()), tmp_path / "out")[0]
    assert [(texts[1], texts[5], spoken[0][1]) for texts, spoken in said(data)] == [
        (str(n), f"clip{n}", noise(n).tobytes()) for n in range(3)
    ]


def test_shar_s_recordings_are_a_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shar.write(examples(small(tmp_path / "native")), tmp_path)
    samples = list(webdataset.WebDataset(str(tmp_path / "recording.000000.tar"), shardshuffle=False))
    assert [soundfile.info(io.BytesIO(sample["flac"])).frames for sample in samples] == [800, 960, 800]
    assert json.loads(samples[1]["json"])["num_samples"] == 960
