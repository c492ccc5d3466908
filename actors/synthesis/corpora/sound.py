"""Recordings of any format and rate, as mono FLAC at 16 kHz. Edge: soundfile, which is imported on first use.

MP3 is decoded by libsndfile itself (1.1 and later).
"""

from __future__ import annotations

import io
import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.audio import SAMPLE_RATE, Samples
from protocol.errors import UserError

ZERO_CROSSINGS = 32
"""Of the low-pass filter's sinc to each side: a transition of some 300 Hz at 16 kHz."""
KAISER_BETA = 9.0
"""Side lobes below -90 dB, less than the noise of 16 bits."""
CUTOFF = 0.95
"""Of the lower of the two Nyquist frequencies."""

Sound = tuple[Samples, int]
"""(mono samples, float32 ``[sample]``; their rate in Hz)."""


class DamagedSoundError(UserError):
    """A recording that is missing, or that nothing can be decoded from."""


def decode(source: Path | bytes, where: str, start_s: float = 0.0, duration_s: float | None = None) -> Sound:
    """`duration_s` of a file's sound from `start_s` on, channels averaged. Raises `DamagedSoundError`."""
    import soundfile

    fix = "fetch the file again, or set corpus.skip_damaged=true to leave such recordings out"
    if isinstance(source, Path) and not source.is_file():
        raise DamagedSoundError(f"there is no recording {source}", where=where, fix=fix)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate = int(file.samplerate)
            start = round(start_s * rate)
            if start >= file.frames > 0:
                raise DamagedSoundError(f"the recording ends at {file.frames / rate:.2f} s, before {start_s:g} s", where=where, fix=fix)
            file.seek(start)
            samples = file.read(-1 if duration_s is None else round(duration_s * rate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise DamagedSoundError(f"no audio that can be decoded ({error})", where=where, fix=fix) from None
    if not len(samples):
        raise DamagedSoundError("the audio is empty", where=where, fix=fix)
    return np.ascontiguousarray(samples.mean(axis=1)), rate


def to_flac(sound: Sound) -> tuple[bytes, float]:
    """(FLAC file, mono, 16 kHz, 16 bits; its duration in seconds). The same samples give the same bytes."""
    import soundfile

    samples = resample(*sound)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue(), len(samples) / SAMPLE_RATE


def resample(samples: Samples, rate: int) -> Samples:
    """`samples` at `rate` Hz as 16 kHz: ceil(n · 16000 / rate) samples, filtered below the lower Nyquist frequency."""
    if rate == SAMPLE_RATE:
        return samples
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    phases = _phases(up, down)
    width = phases.shape[1]
    reach = width // 2
    count = -(-len(samples) * up // down)
    padded = np.pad(samples.astype(np.float64), (reach, reach + down + width))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    out = np.empty(count)
    for first in range(min(up, count)):  # outputs `first`, `first + up`, … lie between input samples in the same way
        whole, phase = divmod(first * down, up)
        chosen = out[first::up]
        chosen[:] = windows[whole::down][: len(chosen)] @ phases[phase]
    return out.astype(np.float32)


@cache
def _phases(up: int, down: int) -> NDArray[np.float64]:
    """Weights of the input samples around an output that lies phase/up behind one: ``[phase, tap]``."""
    cutoff = CUTOFF * min(1.0, up / down)  # of the input's Nyquist frequency
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    distance = np.arange(-reach, reach + 1)[None, :] - (np.arange(up) / up)[:, None]
    inside = np.clip(1.0 - (distance / (reach + 1)) ** 2, 0.0, None)
    weights = cutoff * np.sinc(cutoff * distance) * np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)
