"""Voices: what a bank holds, and which of them speak an instruction. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray


@dataclass(frozen=True)
class Voice:
    """One speaker: an accent and voice variant of espeak-ng with its own pace and pitch, a server's preset, or a recording to clone."""

    name: str
    espeak: str = ""
    """What `espeak_SetVoiceByName` takes: ``accent+variant``."""
    words_per_minute: int = 175
    pitch: int = 50
    """0 to 100, 50 is the variant's own."""
    pitch_range: int = 50
    voice: str = ""
    """What a server or plug-in calls it; by default `name`."""
    audio: str = ""
    """Path of the recording that is cloned, 3 to 30 s."""
    text: str = ""
    """What is said in it."""
    accent: str = ""
    language: str = ""
    """The only one that it speaks; "" for any."""

    @property
    def served_as(self) -> str:
        """Its name for a back end."""
        return self.voice or self.name


class Casting:
    """Who speaks which draft: every voice has a place in every draft's order, by a hash of seed, draft and name.

    The order depends on nothing else. A bank in another order gives the same voices, and a voice that is added or taken out
    changes only the drafts that it would speak.
    """

    def __init__(self, voices: Sequence[Voice], seed: int) -> None:
        self._voices = list(voices)
        self._seed = seed
        self._by_language: dict[str, tuple[list[Voice], NDArray[np.uint64]]] = {}

    def speaks(self, language: str) -> int:
        """How many voices speak `language`."""
        return len(self._of(language)[0])

    def order(self, draft_id: str, language: str, most: int) -> Iterator[Voice]:
        """The first `most` voices of a draft, all different."""
        voices, names = self._of(language)
        places = _mix(names ^ np.uint64(xxhash.xxh3_64_intdigest(draft_id.encode(), seed=self._seed)))
        if most < len(places):
            first = np.argpartition(places, most)[:most]
            first = first[np.argsort(places[first], kind="stable")]
        else:
            first = np.argsort(places, kind="stable")
        return (voices[index] for index in first)

    def _of(self, language: str) -> tuple[list[Voice], NDArray[np.uint64]]:
        if language not in self._by_language:
            base = language.lower().split("-")[0]
            voices = [voice for voice in self._voices if voice.language.lower().split("-")[0] in {"", base}]
            names = np.array([xxhash.xxh3_64_intdigest(voice.name.encode()) for voice in voices], dtype=np.uint64)
            self._by_language[language] = voices, names
        return self._by_language[language]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of the input changes half of the bits of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
