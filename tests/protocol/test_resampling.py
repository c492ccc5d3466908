from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import resampling
from protocol.resampling import resample


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_resampling_keeps_speech_as_it_is_and_its_length(rate_hz: int) -> None:
    seconds = np.arange(rate_hz) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 1000 * seconds) + 0.2 * np.sin(2 * np.pi * 3300 * seconds + 1)
    heard = resample(tone, rate_hz)
    seconds = np.arange(16_000) / 16_000
    expected = 0.5 * np.sin(2 * np.pi * 1000 * seconds) + 0.2 * np.sin(2 * np.pi * 3300 * seconds + 1)
    assert len(heard) == 16_000
    assert np.abs(heard - expected)[800:-800].max() < 1e-3  # the ends ring, as the tone begins and stops at once


def test_resampling_drops_what_16_khz_cannot_hold() -> None:
    tone = np.sin(2 * np.pi * 9000 * np.arange(48_000) / 48_000)
    assert np.abs(resample(tone, 48_000))[800:-800].max() < 1e-3


def test_a_click_does_not_ring() -> None:
    click = np.zeros(24_000)
    click[12_001] = 1
    assert np.abs(resample(click, 24_000)[:6400]).max() < 1e-5  # 0.1 s before it


@pytest.mark.parametrize("frames", [1, 2, 441, 44_101])
def test_no_length_is_refused(frames: int) -> None:
    assert len(resample(np.ones(frames), 44_100)) == math.ceil(frames * 160 / 441)


@given(st.integers(1, 5_000), st.sampled_from([8_000, 11_025, 22_050, 32_000, 44_100, 48_000]))
def test_every_length_is_converted(count: int, rate_hz: int) -> None:
    assert len(resample(np.full(count, 0.25, np.float32), rate_hz)) == -(-count * 16_000 // rate_hz)


@given(st.integers(1, 1 << 20))
def test_transforms_have_lengths_of_small_factors(least):
    found = resampling._smooth(least)
    assert least <= found <= 1.5 * least + 1
    for prime in (2, 3, 5):
        while found % prime == 0:
            found //= prime
    assert found == 1
