"""Audio of any rate at 16 kHz. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from protocol.audio import SAMPLE_RATE

EDGE = 0.06
"""Share of the band below the lower of the two Nyquist frequencies over which the gain goes from one to nothing."""
SILENCE_S = 0.05
"""Behind the audio: the transform wraps around into it."""


def resample(samples: NDArray[np.floating], rate_hz: int) -> NDArray[np.float64]:
    """``[sample]`` at `rate_hz` as ``[ceil(samples · 16000 / rate_hz)]``, in the frequency domain.

    The transform covers a whole number of periods of both rates, so that the ratio is exact. Its edge is a raised cosine, which keeps it
    from ringing.
    """
    if rate_hz == SAMPLE_RATE:
        return np.asarray(samples, np.float64)
    divisor = math.gcd(rate_hz, SAMPLE_RATE)
    down, up = rate_hz // divisor, SAMPLE_RATE // divisor
    periods = _smooth(math.ceil((len(samples) + rate_hz * SILENCE_S) / down))
    before, after = periods * down, periods * up
    kept = min(before, after) // 2 + 1
    spectrum = np.fft.rfft(samples, before)[:kept]
    nyquist_hz = min(rate_hz, SAMPLE_RATE) / 2
    below = (nyquist_hz - np.arange(kept) * rate_hz / before) / (EDGE * nyquist_hz)
    spectrum *= 0.5 - 0.5 * np.cos(np.pi * np.clip(below, 0, 1))
    resampled: NDArray[np.float64] = np.fft.irfft(spectrum, after) * (up / down)
    return resampled[: -(-len(samples) * up // down)]


def _smooth(least: int) -> int:
    """The next number from `least` on whose prime factors are 2, 3 and 5: transforms of other lengths take several times as long."""
    best = 1 << max(0, (least - 1).bit_length())
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            best = min(best, odd << max(0, (-(-least // odd) - 1).bit_length()))
            odd *= 3
        fives *= 5
    return best
