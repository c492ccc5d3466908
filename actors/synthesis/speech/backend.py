"""What a speech back end is: lines in, takes out, in order. Plug-ins of the group `rba.speech` implement `Backend.say`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from actors.synthesis.speech.samples import Clip, Fault, Limits, finish
from actors.synthesis.speech.voices import Voice
from protocol.errors import RbaError

Said = tuple[NDArray[np.floating], int]
"""Samples ``[sample]`` or ``[sample, channel]``, full scale 1, and their rate in Hz."""


@dataclass(frozen=True)
class Line:
    """One voice's part: what it says."""

    text: str
    voice: Voice
    language: str


@dataclass(frozen=True)
class Take:
    """What came of a line: a clip, or only faults."""

    clip: Clip | None
    faults: tuple[Fault, ...] = ()
    """One for every try that failed."""


class NoSpeechError(RbaError):
    """A try at a line that gave no samples. `retry`: another try with the same voice may help."""

    def __init__(self, reason: str, detail: str = "", *, retry: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.fault = Fault(reason, detail)
        self.retry = retry


class Backend(ABC):
    """Who speaks. Used as a context manager, which starts and ends what it needs."""

    reads_numbers: ClassVar[bool] = False
    """True where it says numbers and symbols well by itself, and text is handed to it as it is written."""
    concurrency: int = 1
    """Lines at once, by as many threads; 1 calls `say` from one thread at a time."""
    takes: int = 1
    """Tries per line with one voice; more than one only where the same line may sound different the next time."""

    def check(self, voices: Sequence[Voice]) -> None:  # noqa: B027 -- some can tell only by speaking
        """Raises `UserError` for voices that it cannot speak with."""

    @abstractmethod
    def say(self, line: Line) -> Said:
        """One line. Raises `NoSpeechError` where this line fails, and any other error where none would succeed."""

    def speak(self, lines: Sequence[Line], limits: Limits) -> list[Take]:
        """A take for every line, in order."""
        return list(self._pool.map(lambda line: self.take(line, limits), lines))

    def take(self, line: Line, limits: Limits) -> Take:
        """One line, tried as often as `takes` says."""
        faults: list[Fault] = []
        for _ in range(self.takes):
            try:
                samples, rate_hz = self.say(line)
            except NoSpeechError as error:
                faults.append(error.fault)
                if not error.retry:
                    break
                continue
            outcome = finish(samples, rate_hz, line.text, line.language, limits)
            if isinstance(outcome, Clip):
                return Take(outcome, tuple(faults))
            faults.append(outcome)
        return Take(None, tuple(faults))

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="speech")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
