from __future__ import annotations

import numpy as np
import pytest

from actors.datasets.conversion import convert
from actors.datasets.records import Clip, RefusedError
from tests.actors.datasets.sounds import decoded, encoded, noise


def test_flac_of_the_right_kind_is_kept_byte_by_byte() -> None:
    content = encoded(noise(1))
    converted = convert(Clip(content), 30, "here")
    assert (converted.content, converted.duration_s, converted.changes) == (content, 0.05, ())


def test_flac_that_was_cut_off_anywhere_is_damaged() -> None:
    content = encoded(noise(1, 20_000))
    for size in range(0, len(content), 997):
        with pytest.raises(RefusedError):
            convert(Clip(content[:size]), 30, "here")


def test_16_bit_samples_are_kept_exactly() -> None:
    extremes = np.array([-32768, 32767, 0, 1, -1] * 100, np.int16)
    converted = convert(Clip(encoded(extremes, form="WAV")), 30, "here")
    assert np.array_equal(decoded(converted.content), extremes)
    assert converted.changes == ("encoded",)
    floats = convert(Clip(encoded(extremes.astype(np.float32) / 32768, form="WAV", subtype="FLOAT")), 30, "here")
    assert np.array_equal(decoded(floats.content), extremes)


def test_channels_are_mixed_and_rates_are_changed() -> None:
    converted = convert(Clip(encoded(noise(1, 4800, channels=2), 48_000, "WAV", "FLOAT")), 30, "here")
    assert converted.frames == len(decoded(converted.content)) == 1600
    assert converted.changes == ("mixed to mono", "resampled")


def test_a_part_of_a_file_is_cut_to_the_sample() -> None:
    whole = noise(1, 16_000)
    converted = convert(Clip(encoded(whole), start_s=0.25, duration_s=0.5), 30, "here")
    assert np.array_equal(decoded(converted.content), whole[4000:12_000])
    assert converted.changes == ("cut",)


def test_rounded_durations_end_with_the_file() -> None:
    assert convert(Clip(encoded(noise(1, 16_000)), start_s=0.5, duration_s=0.55), 30, "here").frames == 8000


@pytest.mark.parametrize(
    ("clip", "reason", "what"),
    [
        (Clip(encoded(noise(1, 32_000))), "long", "2.00 s long"),
        (Clip(b"no audio"), "damaged", "decoded"),
        (Clip(encoded(noise(1, 16_000))[:-9000]), "damaged", "decoded"),
        (Clip(encoded(noise(1, 0), form="WAV")), "damaged", "empty"),
        (Clip(encoded(noise(1)), start_s=1, duration_s=0.5), "damaged", "not in a file"),
        (Clip(encoded(noise(1)), start_s=0, duration_s=0), "damaged", "empty"),
        (Clip(encoded(np.full(800, np.nan, np.float32), form="WAV", subtype="FLOAT")), "damaged", "no numbers"),
        (Clip(), "damaged", "no audio"),
    ],
)
def test_what_cannot_be_taken_says_why_and_where(clip: Clip, reason: str, what: str) -> None:
    with pytest.raises(RefusedError, match=what) as caught:
        convert(clip, 1.5, "list, line 3")
    assert caught.value.reason == reason
    assert str(caught.value).startswith("list, line 3: ")
