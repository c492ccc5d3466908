"""Audio of any rate at 16 kHz. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from protocol.audio import SAMPLE_RATE

EDGE = 0.06
"""Part of the band below the lower of the two Nyquist frequencies in which the gain goes from one to nothing."""
SILENCE_S = 0.05
"""Behind the audio: the transform wraps around into it."""


def resample(samples: NDArray[np.floating], rate_hz: int) -> NDArray[np.float64]:
    """``[sample]`` at `rate_hz` to ``[sample]`` at 16 kHz, as long as before up to one sample; in the frequency domain.

    A raised cosine below the Nyquist frequency keeps it from ringing. The padded length is a multiple of what makes the ratio whole.
    """
    if rate_hz == SAMPLE_RATE:
        return np.asarray(samples, np.float64)
    divisor = math.gcd(rate_hz, SAMPLE_RATE)
    down, up = rate_hz // divisor, SAMPLE_RATE // divisor
    blocks = math.ceil((len(samples) + rate_hz * SILENCE_S) / down)
    before, after = blocks * down, blocks * up
    kept = min(before, after) // 2 + 1
    spectrum = np.fft.rfft(samples, before)[:kept]
    nyquist_hz = min(rate_hz, SAMPLE_RATE) / 2
    below = (nyquist_hz - np.arange(kept) * rate_hz / before) / (EDGE * nyquist_hz)
    spectrum *= 0.5 - 0.5 * np.cos(np.pi * np.clip(below, 0, 1))
    resampled: NDArray[np.float64] = np.fft.irfft(spectrum, after) * (up / down)
    return resampled[: math.ceil(len(samples) * up / down)]
