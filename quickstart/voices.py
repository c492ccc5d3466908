"""Voices of espeak-ng, called in process through ctypes. Edge: espeakng_loader.

espeak-ng keeps its state in globals, so one process speaks with one `Speaker` at a time, and what it says depends on what
it said before (phase and flutter run on, and no call resets them). A `Speaker` therefore loads the library afresh and
unloads it when closed: the same sentences in the same order give the same samples.
"""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.errors import UserError

ESPEAK_RATE_HZ = 22_050
SAMPLING_RATE_HZ = 16_000
SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come to the callback during the call, no sound device is opened
DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """One speaker: an accent and voice variant of espeak-ng with its own pace and pitch."""

    name: str
    espeak: str
    """What `espeak_SetVoiceByName` takes: ``accent+variant``."""
    words_per_minute: int
    pitch: int
    """0 to 100, 50 is the variant's own."""
    pitch_range: int = 50


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


class Speaker:
    """espeak-ng, freshly loaded. Use it as a context manager, one at a time in a process."""

    def __enter__(self) -> Self:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "the quickstart speaks with espeak-ng, and its wheel is not installed",
                where="espeakng-loader",
                fix="pip install -r requirements/quickstart.lock, or pip install 'rba[quickstart]'",
            ) from error
        self._samples: list[bytes] = []
        self._callback = CALLBACK(self._receive)
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        path = espeakng_loader.get_data_path().encode()
        rate_hz = self._library.espeak_Initialize(SYNCHRONOUS, 0, path, DONT_EXIT)
        if rate_hz != ESPEAK_RATE_HZ:
            raise RuntimeError(f"espeak-ng did not start: espeak_Initialize returned {rate_hz} instead of {ESPEAK_RATE_HZ}")
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)  # noqa: SLF001 -- ctypes has no other way to unload a library

    def _receive(self, samples: Any, count: int, _events: int) -> int:
        if samples and count > 0:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: Voice) -> NDArray[np.float64]:
        """`text` spoken by `voice`: mono 22,050 Hz ``[sample]`` in [-1, 1]. Raises `RuntimeError` when espeak-ng refuses."""
        library = self._library
        if library.espeak_SetVoiceByName(voice.espeak.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice.espeak!r}")
        for parameter, value in ((RATE, voice.words_per_minute), (PITCH, voice.pitch), (RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        encoded = text.encode() + b"\0"
        status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, CHARS_UTF8, None, None)
        if status != 0 or library.espeak_Synchronize() != 0 or not self._samples:
            raise RuntimeError(f"espeak-ng did not speak {text!r} as {voice.espeak!r} (status {status})")
        return np.frombuffer(b"".join(self._samples), dtype="<i2").astype(np.float64) / 32768


def resample(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """22,050 Hz to 16,000 Hz ``[sample]``, in the frequency domain with a soft edge below the new Nyquist frequency.

    The ratio is 320/441, so a length that is a multiple of 441 maps to a whole number of samples exactly.
    """
    blocks = -(-len(samples) // 441) + 1  # one more block keeps the wrap-around of the transform inside silence
    spectrum = np.fft.rfft(samples, blocks * 441)[: blocks * 160 + 1]
    frequency_hz = np.fft.rfftfreq(blocks * 320, 1 / SAMPLING_RATE_HZ)
    edge = np.clip((8000 - frequency_hz) / 500, 0, 1)  # a raised cosine over the last 500 Hz avoids ringing
    return np.fft.irfft(spectrum * (0.5 - 0.5 * np.cos(np.pi * edge)), blocks * 320) * (320 / 441)
