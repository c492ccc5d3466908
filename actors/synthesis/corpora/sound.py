"""Recordings of any format and rate, as mono FLAC at 16 kHz. Edge: soundfile, which is imported on first use.

MP3 is decoded by libsndfile itself (1.1 and later).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from protocol.audio import SAMPLE_RATE, Samples
from protocol.errors import UserError
from protocol.resampling import resample

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
