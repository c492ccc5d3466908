from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from protocol.audio import SAMPLE_RATE, audio_hash, load
from protocol.errors import UserError


def tone(seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    time_s = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.tile((0.5 * np.sin(2 * np.pi * 440 * time_s))[:, None], (1, channels)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    soundfile.write(path, samples, rate)
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_are_float32_between_minus_one_and_one(tmp_path: Path, suffix: str) -> None:
    samples = load(write(tmp_path / f"a{suffix}", tone()))
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE // 2,)
    assert samples.flags.c_contiguous
    assert np.allclose(samples, tone()[:, 0], atol=1e-3)


def test_audio_just_as_long_as_allowed_is_read(tmp_path: Path) -> None:
    assert len(load(write(tmp_path / "a.wav", tone(1.0)), 1.0)) == SAMPLE_RATE


def test_the_right_hash_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    load(path, 30.0, audio_hash(path.read_bytes()))


Maker = Callable[[Path], Path]
BROKEN: dict[str, tuple[Maker, str]] = {
    "missing": (lambda folder: folder / "none.wav", "No such file"),
    "a folder": (lambda folder: folder, "Is a directory"),
    "no bytes": (lambda folder: _bytes(folder, b""), "decoded"),
    "no audio": (lambda folder: _bytes(folder, b"RIFF\0\0\0\0WAVEfmt nonsense"), "decoded"),
    "no samples": (lambda folder: write(folder / "a.wav", tone(0.0)), "empty"),
    "stereo": (lambda folder: write(folder / "a.wav", tone(channels=2)), "2 channels"),
    "another rate": (lambda folder: write(folder / "a.wav", tone(), 8_000), "8000 Hz, expected 16000"),
    "too long": (lambda folder: write(folder / "a.wav", tone(2.5)), "2.50 s long"),
}


def _bytes(folder: Path, content: bytes) -> Path:
    path = folder / "a.wav"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_unusable_audio_is_the_users_error_with_its_path(tmp_path: Path, name: str) -> None:
    make, what = BROKEN[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=what) as caught:
        load(path, 2.0)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_file_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    expected = audio_hash(path.read_bytes())
    write(path, tone(0.4))
    with pytest.raises(UserError, match=expected):
        load(path, 30.0, expected)


def test_the_hash_names_the_content() -> None:
    assert audio_hash(b"") == "xxh128:99aa06d3014798d86001c324468d497f"
    assert audio_hash(b"a") != audio_hash(b"b")


def test_importing_the_module_does_not_import_soundfile() -> None:
    code = "import sys, protocol.audio, protocol.dataset; sys.exit('soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
