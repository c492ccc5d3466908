import json

import numpy as np
import pytest

from actors.synthesis.speech.backends import open_backend, voices_of
from actors.synthesis.speech.bank import read_bank
from actors.synthesis.speech.headers import read_header
from actors.synthesis.speech.voices import Voice
from configs.speech import SpeechSection, SpeechServerSection
from protocol.errors import UserError
from tests.actors.synthesis.speech.servers import STREAMED, encoded, tone


def recording(path, seconds=4.0, form="WAV", hz=300.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(tone(seconds, hz=hz), form=form))
    return path


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_file_of_voices(tmp_path):
    recording(tmp_path / "refs/p1.wav")
    rows = (
        {"name": "anna", "voice": "af_heart", "language": "en"},
        {"name": "p1", "audio": "refs/p1.wav", "text": "Please call Stella."},
        {"name": "fred", "espeak": "en-us-nyc+m4", "words_per_minute": 185},
    )
    voices = read_bank(lines(tmp_path / "bank.jsonl", *rows))
    assert voices == [
        Voice("anna", voice="af_heart", language="en"),
        Voice("p1", audio=str(tmp_path / "refs/p1.wav"), text="Please call Stella."),
        Voice("fred", espeak="en-us-nyc+m4", words_per_minute=185),
    ]
    assert [voice.served_as for voice in voices] == ["af_heart", "p1", "fred"]
    table = tmp_path / "bank.csv"
    table.write_text(
        "name,voice,language,audio,text,espeak,words_per_minute\nanna,af_heart,en,,,,\np1,,,refs/p1.wav,Please call Stella.,,\n"
        "fred,,,,,en-us-nyc+m4,185\n",
        encoding="utf-8",
    )
    assert read_bank(str(table)) == voices


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], r"bank.jsonl, line 2: voice 'a' stands in .*bank.jsonl, line 1 already"),
        ([{"name": "a", "audio": "none.wav", "text": "x"}], "line 1: the recording .*none.wav cannot be read .No such file"),
        ([{"name": "a", "audio": "short.wav", "text": "x"}], r"short.wav is 2.00 s long, and a voice is cloned from 3 to 30 s"),
        ([{"name": "a", "audio": "long.wav", "text": "x"}], r"long.wav is 31.00 s long"),
        ([{"name": "a", "audio": "good.wav"}], "the transcript of .*good.wav is missing"),
        ([{"name": "a", "audio": "notes.txt", "text": "x"}], "notes.txt is no recording: it is neither WAV nor FLAC"),
        (
            [{"name": "a", "audio": "good.wav", "text": "x"}, {"name": "b", "audio": "same.wav", "text": "x"}],
            "line 2: .*same.wav is the recording of a",
        ),
        ([{"name": "a", "pitsch": 3}], "line 1: a voice has no 'pitsch'; its keys are accent, audio"),
        ([{"voice": "x"}], "line 1: not a voice: .*name"),
        ([{"name": " "}], "line 1: the voice has no name"),
        ([{"name": "a", "pitch": "high"}], "not a voice: .*pitch"),
        (["anna"], "line 1: not a voice"),
        ([], "the bank holds no voice"),
    ],
)
def test_mistakes_in_a_bank_are_told(tmp_path, rows, message):
    recording(tmp_path / "good.wav")
    recording(tmp_path / "same.wav")
    recording(tmp_path / "short.wav", 2.0)
    recording(tmp_path / "long.wav", 31.0)
    (tmp_path / "notes.txt").write_text("notes" * 100)
    with pytest.raises(UserError, match=message):
        read_bank(lines(tmp_path / "bank.jsonl", *rows))


def test_a_bank_that_is_not_there_or_not_json(tmp_path):
    with pytest.raises(UserError, match=r"speech.bank=nowhere.jsonl: no such bank"):
        read_bank("nowhere.jsonl")
    (tmp_path / "bank.jsonl").write_text("{name: a}\n")
    with pytest.raises(UserError, match=r"bank.jsonl, line 1: not JSON"):
        read_bank(str(tmp_path / "bank.jsonl"))


def test_line_separators_of_unicode_end_no_line(tmp_path):
    (tmp_path / "bank.jsonl").write_text('{"name": "anna", "text": "one\u2028two\u0085three"}\n{"name": "bert"}\n')
    assert read_bank(str(tmp_path / "bank.jsonl")) == [Voice("anna", text="one\u2028two\u0085three"), Voice("bert")]
    (tmp_path / "bank.csv").write_text("name,text\r\nanna,one\u2028two\r\n")
    assert read_bank(str(tmp_path / "bank.csv")) == [Voice("anna", text="one\u2028two")]


def test_a_folder_of_recordings(tmp_path):
    for number, name in enumerate(("b", "a")):
        recording(tmp_path / f"{name}.flac", form="FLAC", hz=200 + number).with_suffix(".txt").write_text(f"I am {name}.\n")
    assert read_bank(str(tmp_path)) == [Voice(name, audio=str(tmp_path / f"{name}.flac"), text=f"I am {name}.") for name in ("a", "b")]


def corpus(folder, speaker, chapter, durations):
    for number, seconds in enumerate(durations):
        name = f"{speaker}_{chapter}_{number:06d}"
        path = recording(folder / speaker / chapter / f"{name}.wav", seconds, hz=200 + 10 * number + int(speaker))
        path.with_suffix(".normalized.txt").write_text(f"This is {name}.")


def test_a_corpus_in_libritts_layout_gives_one_recording_a_speaker(tmp_path):
    corpus(tmp_path, "19", "198", [1.0, 11.0, 5.0, 6.0])
    corpus(tmp_path, "26", "495", [2.0])
    corpus(tmp_path, "26", "496", [3.5])
    voices = read_bank(str(tmp_path))
    assert [(voice.name, voice.text) for voice in voices] == [("19", "This is 19_198_000002."), ("26", "This is 26_496_000000.")]
    corpus(tmp_path, "27", "1", [1.0])
    with pytest.raises(UserError, match="no recording of speaker 27 takes 3 to 10 s"):
        read_bank(str(tmp_path))


def test_a_bank_has_to_have_enough_voices(tmp_path):
    section = SpeechSection(bank=lines(tmp_path / "bank.jsonl", {"name": "a", "espeak": "en-us+f1"}))
    with pytest.raises(UserError, match="1 voices, and each instruction is to be spoken by 4 different ones"):
        voices_of(section)
    server = SpeechServerSection(url="http://127.0.0.1:1/v1")
    assert [
        voice.name for voice in voices_of(SpeechSection(backend="openai", server=server, presets=list("abca"), voices_per_group=3))
    ] == [*"abc"]


def test_an_unknown_back_end_names_those_that_there_are():
    with pytest.raises(UserError, match=r"no speech back end 'espaek'; there are espeak, openai"):
        open_backend(SpeechSection(backend="espaek"))


def test_headers_say_how_long_a_file_is():
    for form in ("WAV", "FLAC"):
        content = encoded(np.stack([tone(1.5)] * 2, axis=1), form=form)
        header = read_header(content[:4096], len(content))
        assert (header.rate_hz, header.channels, header.duration_s) == (24_000, 2, 1.5)
    assert read_header(STREAMED[:100], len(STREAMED)).duration_s == 2.0
    for cut in (0, 3, 11, 20, 30, 43):
        with pytest.raises(ValueError, match=r"cut off|neither"):
            read_header(encoded(tone())[:cut], cut)
