from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from actors.synthesis.corpora.sound import DamagedSoundError, decode, to_flac
from tests.actors.synthesis.corpora.layouts import encoded, tone


def loudest_hz(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))) * rate / len(samples)


def test_the_channels_are_averaged_and_the_file_is_flac_of_16_bits() -> None:
    stereo = np.stack([tone(500, 0.5, 48_000), np.zeros(24_000, np.float32)], axis=1)
    content, duration_s = to_flac(decode(encoded(stereo, 48_000), "here"))
    info = soundfile.info(io.BytesIO(content))
    assert (info.format, info.subtype, info.samplerate, info.channels, duration_s) == ("FLAC", "PCM_16", 16_000, 1, 0.5)
    samples, _ = soundfile.read(io.BytesIO(content))
    assert np.abs(samples).max() == pytest.approx(0.25, abs=0.01)
    assert to_flac(decode(encoded(stereo, 48_000), "here")) == (content, duration_s)


def test_mp3_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp3"
    path.write_bytes(encoded(tone(700, 1.0, 48_000), 48_000, "MP3"))
    samples, rate = decode(path, "clip.mp3")
    assert rate == 48_000
    assert loudest_hz(samples, rate) == pytest.approx(700, abs=5)


def test_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(encoded(np.concatenate([tone(400, 2.0, 16_000), tone(800, 2.0, 16_000)]), 16_000))
    samples, rate = decode(path, "talk", 2.25, 1.5)
    assert len(samples) == 24_000
    assert loudest_hz(samples, rate) == pytest.approx(800, abs=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no audio", "no audio that can be decoded"),
        (encoded(np.zeros(0, np.float32), 16_000), "empty"),
        (b"", "no audio that can be decoded"),
    ],
)
def test_damage_is_told_with_its_place(content: bytes, said: str) -> None:
    with pytest.raises(DamagedSoundError, match=said) as caught:
        decode(content, "clips/x.mp3, validated.tsv, line 7")
    assert caught.value.where == "clips/x.mp3, validated.tsv, line 7"


def test_a_missing_file_and_a_segment_behind_the_end(tmp_path: Path) -> None:
    with pytest.raises(DamagedSoundError, match="there is no recording"):
        decode(tmp_path / "x.wav", "line 1")
    (tmp_path / "x.wav").write_bytes(encoded(tone(400, 1.0, 16_000), 16_000))
    with pytest.raises(DamagedSoundError, match=r"ends at 1.00 s, before 2 s"):
        decode(tmp_path / "x.wav", "line 1", 2.0, 1.0)
