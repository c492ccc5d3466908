"""espeak-ng as a back end: one process a core, each line by a library freshly loaded.

A fresh library makes a clip depend on its line alone: not on what was said before it, nor on how many processes there are.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import Self

from actors.synthesis.speech.backend import Backend, Line, NoSpeechError, Said, Take
from actors.synthesis.speech.espeak import ESPEAK_RATE_HZ, MISSING, Speaker
from actors.synthesis.speech.samples import Fault, Limits
from actors.synthesis.speech.voices import Voice
from protocol.errors import UserError

CHUNK_LINES = 8
"""Lines that a process is handed at once."""


class EspeakBackend(Backend):
    """Speaks in processes of its own, for espeak-ng's state is global to a process."""

    reads_numbers = True

    def __init__(self, processes: int = 0) -> None:
        """`processes`: 0 for one a core."""
        self.processes = processes or len(os.sched_getaffinity(0))
        self._workers: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._ended = False

    def check(self, voices: Sequence[Voice]) -> None:
        """Raises `UserError` for a combination of accent and variant that espeak-ng does not know."""
        refused = self._processes().submit(_refused, voices).result()
        if refused:
            raise UserError(
                f"espeak-ng has no voice {refused[0].espeak!r}{f', nor {len(refused) - 1} others' if refused[1:] else ''}",
                where=f"speech.bank, {refused[0].name}",
                fix="write ACCENT+VARIANT as espeak-ng knows them, such as en-us+f3, or take the voice out",
            )

    def say(self, line: Line) -> Said:
        """One line, in the calling process."""
        try:
            with Speaker() as speaker:
                return speaker.say(line.text, line.voice), ESPEAK_RATE_HZ
        except RuntimeError as error:
            raise NoSpeechError("refused", str(error), retry=False) from error

    def speak(self, lines: Sequence[Line], limits: Limits) -> list[Take]:
        """A take for every line, in order. A line that ends its process is a fault, "crashed"."""
        chunks = [lines[start : start + CHUNK_LINES] for start in range(0, len(lines), CHUNK_LINES)]
        asked = [self._ask(chunk, limits) for chunk in chunks]
        takes: list[Take] = []
        for chunk, future in zip(chunks, asked, strict=True):
            takes += self._answer(future) or self._again(chunk, limits)
        return takes

    def _ask(self, lines: Sequence[Line], limits: Limits) -> Future[list[Take]] | None:
        try:
            return self._processes().submit(_speak, lines, limits)
        except BrokenProcessPool:
            return None

    def _answer(self, future: Future[list[Take]] | None) -> list[Take] | None:
        """None when a process died, which takes with it what the others were asked too."""
        try:
            return future.result() if future else None
        except BrokenProcessPool:
            return None

    def _again(self, lines: Sequence[Line], limits: Limits) -> list[Take]:
        """A chunk whose process died, once more, and then line by line."""
        return self._answer(self._ask(lines, limits)) or [self._alone(line, limits) for line in lines]

    def _alone(self, line: Line, limits: Limits) -> Take:
        """A process that speaks nothing else, so that only the line that ends it is blamed."""
        self._go_on()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin) as process:
            found = self._answer(process.submit(_speak, [line], limits))
        return found[0] if found else Take(None, (Fault("crashed", "espeak-ng ended its process"),))

    def _processes(self) -> ProcessPoolExecutor:
        """The pool; another one when the last one broke."""
        with self._lock:
            self._go_on()
            if self._workers is None or self._workers._broken:  # noqa: SLF001 -- submitting would raise it, and break the batch
                # spawn: espeak-ng's globals, and the threads of whoever calls, must not be forked
                self._workers = ProcessPoolExecutor(self.processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
            return self._workers

    def _go_on(self) -> None:
        """Raises `CancelledError` behind the end: a thread that is still at its lines must not start processes that nobody ends."""
        if self._ended:
            raise CancelledError

    def __enter__(self) -> Self:
        if importlib.util.find_spec("espeakng_loader") is None:
            raise MISSING
        self._ended = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._ended = True
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(cancel_futures=True)


# --- in the processes -----------------------------------------------------------------------------------------


def _begin() -> None:
    """Ctrl-C goes to every process of a terminal, and is for the parent to answer; one that was killed answers nothing, and its
    processes would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _refused(voices: Sequence[Voice]) -> list[Voice]:
    with Speaker() as speaker:
        return [voice for voice in voices if not (voice.espeak and speaker.knows(voice))]


def _speak(lines: Sequence[Line], limits: Limits) -> list[Take]:
    backend = EspeakBackend(1)
    return [backend.take(line, limits) for line in lines]
