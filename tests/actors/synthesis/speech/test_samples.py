import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.speech.samples import (
    MARGIN_S,
    PEAK,
    TRAILING_SILENCE,
    Clip,
    Fault,
    Limits,
    encode,
    finish,
)
from tests.actors.synthesis.speech.servers import tone

TEXT = "Why is the sky blue?"
LIMITS = Limits()


def reason(samples, rate_hz=24_000, text=TEXT, language="en", limits=LIMITS):
    outcome = finish(samples, rate_hz, text, language, limits)
    return outcome.reason if isinstance(outcome, Fault) else ""


def decoded(clip):
    samples, rate_hz = soundfile.read(io.BytesIO(clip.content), dtype="int16", always_2d=True)
    assert rate_hz == 16_000
    assert samples.shape[1] == 1
    return samples[:, 0]


@given(
    st.sampled_from([16_000, 22_050, 24_000, 32_000, 44_100, 48_000]),
    st.floats(0.8, 3.0),
    st.floats(0.0, 2.0),
    st.floats(0.0, 2.0),
    st.floats(0.01, 1.0),
    st.booleans(),
)
def test_a_clip_is_trimmed_to_its_speech_at_one_peak_with_silence_behind_it(rate_hz, seconds, before_s, after_s, peak, stereo):
    speech = tone(seconds, rate_hz, peak=0.99 * peak)
    samples = np.concatenate([np.zeros(int(before_s * rate_hz)), speech, np.zeros(int(after_s * rate_hz))])
    clip = finish(np.stack([samples] * 2, axis=1) if stereo else samples, rate_hz, TEXT, "en", LIMITS)
    assert isinstance(clip, Clip)
    said = decoded(clip)
    assert clip.duration_s == pytest.approx(len(said) / 16_000, abs=1e-4)
    assert not said[-TRAILING_SILENCE:].any()
    assert TRAILING_SILENCE >= 480
    margins = min(before_s, MARGIN_S) + min(after_s, MARGIN_S)
    assert len(said) == pytest.approx((seconds + margins) * 16_000 + TRAILING_SILENCE, abs=150)
    assert np.abs(said).max() == pytest.approx(PEAK * 32767, abs=1)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "expected"),
    [
        (np.zeros(24_000), 24_000, "silent"),
        (np.full(24_000, 1e-3), 24_000, "silent"),
        (np.array([]), 24_000, "broken"),
        (np.zeros((3, 3, 3)), 24_000, "broken"),
        (np.where(np.arange(24_000) == 7, np.nan, tone(1.0)), 24_000, "broken"),
        (tone(2.0, 8000), 8000, "rate"),
        (tone(2.0), 0, "rate"),
        (np.clip(tone(2.0, peak=3.0), -1, 1), 24_000, "clipped"),
        (tone(0.2), 24_000, "too fast"),
        (tone(12.0), 24_000, "too slow"),
    ],
)
def test_what_is_no_speech_is_refused_with_a_reason(samples, rate_hz, expected):
    assert reason(samples, rate_hz) == expected


def test_bounds_are_those_of_the_language():
    limits = Limits(20.0, {"": (3.0, 40.0), "zh": (1.0, 5.0)})
    assert reason(tone(2.0), text="今天的天气怎么样今天的天气怎么样", language="zh-CN", limits=limits) == "too fast"
    assert reason(tone(2.0), text="今天的天气怎么样", language="zh", limits=limits) == ""
    assert reason(tone(21.0), text="word " * 30, limits=limits) == "too long"
    assert reason(tone(19.0), text="word " * 30, limits=limits) == ""


def test_the_same_samples_make_the_same_file():
    samples = (tone(1.0, 16_000) * 32767).astype(np.int16)
    assert encode(samples) == encode(samples.copy())
    assert np.array_equal(decoded(Clip(encode(samples), 1.0)), samples)
