"""The quickstart's voices of espeak-ng, and its resampler from their rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.synthesis.speech.espeak import ESPEAK_RATE_HZ, Speaker
from actors.synthesis.speech.voices import Voice

__all__ = ["ESPEAK_RATE_HZ", "HELD_OUT", "SAMPLING_RATE_HZ", "TRAINING", "Speaker", "Voice", "resample"]

SAMPLING_RATE_HZ = 16_000

TRAINING = (
    Voice("us-ann", "en-us+linda", 165, 50),
    Voice("us-max", "en-us+m3", 175, 45),
    Voice("rp-beth", "en-gb-x-rp+f4", 170, 55),
    Voice("rp-carl", "en-gb-x-rp+m1", 180, 50),
    Voice("scot-dora", "en-gb-scotland+steph", 165, 45),
    Voice("scot-evan", "en-gb-scotland+m7", 170, 40),
    Voice("nyc-fred", "en-us-nyc+m4", 185, 55),
    Voice("lancs-gina", "en-gb-x-gbclan+f1", 175, 50),
    Voice("carib-hal", "en-029+m2", 170, 50),
    Voice("mids-iris", "en-gb-x-gbcwmd+Annie", 180, 60),
)
"""Heard in training; the order matters to `Difficulty.training_voices`."""
HELD_OUT = (
    Voice("nyc-jane", "en-us-nyc+belinda", 175, 55),
    Voice("mids-kurt", "en-gb-x-gbcwmd+m6", 165, 40),
)
"""Heard in the validation and test groups only: speakers, and pairings of accent and speaker, that training never has."""


def resample(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """22,050 Hz to 16,000 Hz ``[sample]``, in the frequency domain with a soft edge below the new Nyquist frequency.

    The ratio is 320/441, so a length that is a multiple of 441 maps to a whole number of samples exactly.
    """
    blocks = -(-len(samples) // 441) + 1  # one more block keeps the wrap-around of the transform inside silence
    spectrum = np.fft.rfft(samples, blocks * 441)[: blocks * 160 + 1]
    frequency_hz = np.fft.rfftfreq(blocks * 320, 1 / SAMPLING_RATE_HZ)
    edge = np.clip((8000 - frequency_hz) / 500, 0, 1)  # a raised cosine over the last 500 Hz avoids ringing
    return np.fft.irfft(spectrum * (0.5 - 0.5 * np.cos(np.pi * edge)), blocks * 320) * (320 / 441)
