"""Audio as rba keeps it: FLAC, mono, 16 kHz, 16 bit. Edge: soundfile.

soundfile is imported on first use: a process that is about to host vLLM must not have it loaded.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.datasets.records import Clip, RefusedError
from protocol.audio import SAMPLE_RATE
from protocol.resampling import resample

SLACK_S = 0.1
"""A part of a file may end so far behind the file's end; durations are rounded in many sources."""


@dataclass(frozen=True, slots=True)
class Converted:
    """One clip."""

    content: bytes
    duration_s: float
    frames: int
    changes: tuple[str, ...]
    """What was done to it, in the words of the summary; none where the bytes are the source's own."""


def convert(clip: Clip, max_audio_s: float, where: str) -> Converted:
    """Samples of 16 bit, 16 kHz and one channel are kept exactly. Raises `RefusedError`."""
    import soundfile

    try:
        content = clip.content if clip.content is not None else _read(clip, where)
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate_hz, whole = file.samplerate, file.frames
            start, frames = _span(clip, rate_hz, whole, where)
            if frames / rate_hz > max_audio_s:
                what = f"the audio is {frames / rate_hz:.2f} s long, and {max_audio_s:g} s are allowed"
                raise RefusedError("long", what, where=where, fix="raise --max-audio-s, or leave such rows out with --drop long")
            is_ours = (file.format, file.subtype, file.channels, rate_hz) == ("FLAC", "PCM_16", 1, SAMPLE_RATE)
            samples, changes = _samples(file, start, frames)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise RefusedError("damaged", f"no audio that can be decoded ({error})", where=where) from None
    if not len(samples):
        raise RefusedError("damaged", "the audio is empty", where=where)
    if is_ours and frames == whole:
        return Converted(content, round(frames / rate_hz, 4), frames, ())
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    cut = ("cut",) if frames != whole else ()
    return Converted(encoded.getvalue(), round(len(samples) / SAMPLE_RATE, 4), len(samples), (*cut, *changes) or ("encoded",))


def _read(clip: Clip, where: str) -> bytes:
    if clip.path is None:
        raise RefusedError("damaged", "there is no audio", where=where)
    try:
        return clip.path.read_bytes()
    except OSError as error:
        raise RefusedError("damaged", f"{clip.path} cannot be read ({error.strerror})", where=where) from None


def _span(clip: Clip, rate_hz: int, whole: int, where: str) -> tuple[int, int]:
    """First frame and count of the part that is meant."""
    start = round(clip.start_s * rate_hz)
    frames = whole - start if clip.duration_s is None else round(clip.duration_s * rate_hz)
    if whole <= 0 or frames <= 0:
        raise RefusedError("damaged", "the audio is empty", where=where)
    if start < 0 or start + frames > whole + SLACK_S * rate_hz:
        what = f"{clip.start_s:g} s to {(start + frames) / rate_hz:g} s is not in a file of {whole / rate_hz:g} s"
        raise RefusedError("damaged", what, where=where)
    return start, min(frames, whole - start)


def _samples(file: Any, start: int, frames: int) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    file.seek(start)
    is_exact = (file.subtype, file.channels, file.samplerate) == ("PCM_16", 1, SAMPLE_RATE)
    read = file.read(frames, dtype="int16" if is_exact else "float64", always_2d=True)
    if is_exact:
        return read[:, 0], ()
    changes = (*(("mixed to mono",) if file.channels > 1 else ()), *(("resampled",) if file.samplerate != SAMPLE_RATE else ()))
    if not np.isfinite(read).all():
        raise ValueError("samples that are no numbers")
    loud = np.round(resample(read.mean(axis=1), file.samplerate) * 32768)
    return np.clip(loud, -32768, 32767).astype(np.int16), changes
