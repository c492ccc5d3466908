"""From what a back end said to the clip of a data set: checks, each with its reason, and one shape. Pure but for the FLAC encoder.
Edge: soundfile.

soundfile is imported on first use: a process that is about to host vLLM must not have it loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol.audio import SAMPLE_RATE
from protocol.resampling import resample

Raw = NDArray[np.float64]
"""Mono ``[sample]``, full scale 1."""
MARGIN_S = 0.05
"""What is kept around the speech."""
TRAILING_SILENCE = 640
"""Samples of digital silence after the clip: the last frames of the spectrogram see past its end."""
PEAK = 0.5
SPEECH_OVER_PEAK = 0.01
"""Samples above this share of the peak (-40 dB) count as speech where silence is trimmed."""
SILENT_PEAK = 10 ** (-50 / 20)
FULL_SCALE, CLIPPED_SHARE = 0.999, 0.001
SLACK_S = 1.0
"""Added to the longest plausible duration, for short texts."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 16_000, 192_000

REASONS = ("broken", "rate", "silent", "clipped", "too fast", "too slow", "too long")
"""Why `finish` refuses samples."""


@dataclass(frozen=True)
class Fault:
    """Why one take of a voice is of no use."""

    reason: str
    """A short phrase that is counted."""
    detail: str = ""


@dataclass(frozen=True)
class Clip:
    """One utterance as it goes into the data set."""

    content: bytes
    """FLAC, mono, 16 kHz, 16 bit."""
    duration_s: float


@dataclass(frozen=True)
class Limits:
    """What `finish` lets pass."""

    max_audio_s: float = 30.0
    characters_per_s: dict[str, tuple[float, float]] = field(default_factory=lambda: {"": (3.0, 40.0)})
    """Slowest and fastest plausible speech by language, "" for those that are not named."""

    def pace(self, language: str) -> tuple[float, float]:
        """The bounds of a language."""
        return self.characters_per_s.get(language.lower().split("-")[0], self.characters_per_s[""])


def finish(samples: NDArray[np.floating], rate_hz: int, text: str, language: str, limits: Limits) -> Clip | Fault:
    """The clip of `samples` ``[sample]`` or ``[sample, channel]`` at `rate_hz`, or why they are refused.

    Mono, 16 kHz, trimmed to the speech with a margin, at one peak, with digital silence at the end.
    """
    mono = np.asarray(samples, dtype=np.float64)
    mono = mono.mean(axis=1) if mono.ndim == 2 else mono
    fault = _broken(mono, rate_hz) or _loudness(mono)
    if fault is not None:
        return fault
    speech = trim(resample(mono, rate_hz))
    fault = pace(len(speech) / SAMPLE_RATE, text, language, limits)
    if fault is not None:
        return fault
    shaped = np.concatenate([speech * (PEAK / np.abs(speech).max()), np.zeros(TRAILING_SILENCE)])
    duration_s = len(shaped) / SAMPLE_RATE
    if duration_s > limits.max_audio_s:
        return Fault("too long", f"{duration_s:.2f} s, at most {limits.max_audio_s:g} s")
    return Clip(encode(np.round(shaped * 32767).astype(np.int16)), round(duration_s, 4))


def _broken(samples: Raw, rate_hz: int) -> Fault | None:
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        return Fault("rate", f"{rate_hz} Hz")
    if samples.ndim != 1 or not len(samples):
        return Fault("broken", f"samples of shape {samples.shape}")
    return None if np.isfinite(samples).all() else Fault("broken", "samples that are no numbers")


def _loudness(samples: Raw) -> Fault | None:
    loud = np.abs(samples)
    if loud.max() < SILENT_PEAK:
        return Fault("silent", f"peak {loud.max():.2g}")
    share = float(np.mean(loud >= FULL_SCALE))
    return Fault("clipped", f"{share:.1%} of the samples at full scale") if share > CLIPPED_SHARE else None


def pace(speech_s: float, text: str, language: str, limits: Limits) -> Fault | None:
    """Refuses speech that is too short or too long to be `text`: half a sentence, or a back end that babbles on."""
    characters = sum(character.isalnum() for character in text)
    slowest, fastest = limits.pace(language)
    detail = f"{characters} characters in {speech_s:.2f} s"
    if speech_s < characters / fastest:
        return Fault("too fast", detail)
    return Fault("too slow", detail) if speech_s > characters / slowest + SLACK_S else None


def trim(samples: Raw) -> Raw:
    """16 kHz ``[sample]`` without the silence before and after, but for a margin."""
    loud = np.nonzero(np.abs(samples) > SPEECH_OVER_PEAK * np.abs(samples).max())[0]
    margin = int(MARGIN_S * SAMPLE_RATE)
    return samples[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


def encode(samples: NDArray[np.int16]) -> bytes:
    """FLAC of mono 16 kHz ``[sample]``."""
    import io

    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()
