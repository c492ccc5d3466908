"""espeak-ng, called in process through ctypes. Edge: espeakng_loader.

espeak-ng keeps its state in globals, so one process speaks with one `Speaker` at a time, and what it says depends on what
it said before (phase and flutter run on, and no call resets them). A `Speaker` therefore loads the library afresh and
unloads it when closed: the same sentences in the same order give the same samples. A load takes about a millisecond.
Breath is noise, drawn from a generator that espeak-ng seeds with the time of day, or from libc's: a `Speaker` seeds both.
"""

from __future__ import annotations

import _ctypes
import ctypes
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from actors.synthesis.speech.voices import Voice
from protocol.errors import UserError

ESPEAK_RATE_HZ = 22_050
SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come to the callback during the call, no sound device is opened
DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
CHARS_UTF8 = 1
SEED = 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
MISSING = UserError(
    "espeak-ng is to speak, and its wheel is not installed",
    where="espeakng-loader",
    fix="pip install -r requirements/quickstart.lock, or pip install 'rba[quickstart]'",
)


class Speaker:
    """espeak-ng, freshly loaded. Use it as a context manager, one at a time in a process."""

    def __enter__(self) -> Self:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MISSING from error
        self._samples: list[bytes] = []
        self._callback = CALLBACK(self._receive)
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self._variants = Path(data) / "voices" / "!v"
        rate_hz = self._library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), DONT_EXIT)
        if rate_hz != ESPEAK_RATE_HZ:
            raise RuntimeError(f"espeak-ng did not start: espeak_Initialize returned {rate_hz} instead of {ESPEAK_RATE_HZ}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))
        ctypes.CDLL(None).srand(SEED)
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

    def knows(self, voice: Voice) -> bool:
        """True when espeak-ng takes this combination of accent and variant. By itself it passes over a variant that there is not."""
        variant = voice.espeak.partition("+")[2]
        if variant and not (self._variants / variant).is_file():
            return False
        return bool(self._library.espeak_SetVoiceByName(voice.espeak.encode()) == 0)

    def say(self, text: str, voice: Voice) -> NDArray[np.float64]:
        """`text` spoken by `voice`: mono 22,050 Hz ``[sample]`` in [-1, 1]. Raises `RuntimeError` when espeak-ng refuses."""
        library = self._library
        if not self.knows(voice):
            raise RuntimeError(f"espeak-ng has no voice {voice.espeak!r}")
        for parameter, value in ((RATE, voice.words_per_minute), (PITCH, voice.pitch), (RANGE, voice.pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        encoded = text.encode() + b"\0"
        status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, CHARS_UTF8, None, None)
        if status != 0 or library.espeak_Synchronize() != 0 or not self._samples:
            raise RuntimeError(f"espeak-ng did not speak {text!r} as {voice.espeak!r} (status {status})")
        return np.frombuffer(b"".join(self._samples), dtype="<i2").astype(np.float64) / 32768
