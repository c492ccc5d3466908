"""Copies of checkpoints, out of the way of the training: one thread, one checkpoint after the other.

    add ──▶ queue ──▶ thread ──▶ <url>/<run>/step-N/… , digests.json last

A copy is whole when its ``digests.json`` is there, for object stores have no rename. Whatever stops the copying leaves folders
without one, and the run's next life copies what is missing.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from learner.checkpoint import BEST, CHECKPOINTS, DIGESTS, best_step, digest, steps_of
from learner.events import Events
from learner.gauges import Gauges
from protocol.destination import ATTEMPTS, FIRST_WAIT_S, Destination, patiently
from protocol.errors import RbaError
from protocol.logs import get_logger

Done = TypeVar("Done")

CONFIG = "config.yaml"
"""Copied too, where the supervisor has left it on this machine: `rba launch --resume` and `rba export` want it."""
KEY = "learner.checkpoint_copies"
MOST_HELD = 3
"""Waiting checkpoints that retention leaves alone; where copying is slower than training, older ones are given up for the disk's sake."""
CLOSE_LIMIT_S = 480.0
"""How long the end of a run waits for copies: somewhat less than `rba stop` gives a learner for its last checkpoint and them together."""
LOOK_EVERY_S = 1.0


class UnfitError(RbaError):
    """What is to be copied is not what its digests say, or is no longer wanted: trying again does not help."""


class Copier:
    """Copies one thing by its name. Raises what the library raises, once it has tried often enough."""

    def __init__(self, destination: Destination, run_dir: Path, first_wait_s: float, cancelled: Callable[[], bool]) -> None:
        """Nothing further is begun once `cancelled` says True."""
        self._destination, self._run_dir, self._first_wait_s, self._cancelled = destination, run_dir, first_wait_s, cancelled

    def copy(self, name: str) -> int | None:
        """Returns the bytes of the checkpoint that was copied; None when it was there, or for a file beside the checkpoints."""
        if name == CONFIG:
            self._copy_small(self._run_dir / CONFIG)
        elif name == BEST:
            self._copy_best()
        else:
            return self._copy_checkpoint(name)
        return None

    def _copy_small(self, file: Path) -> None:
        if file.is_file():
            content = file.read_bytes()
            self._try(lambda: self._destination.put_content(content, f"{self._run_dir.name}/{file.name}"))

    def _copy_best(self) -> None:
        """Never ahead of the checkpoint that it names."""
        file = self._run_dir / CHECKPOINTS / BEST
        step = best_step(self._run_dir)
        if step is not None and self._try(lambda: self._destination.content(f"{self._run_dir.name}/{_name(step)}/{DIGESTS}")) is not None:
            self._copy_small(file)

    def _copy_checkpoint(self, name: str) -> int | None:
        source, target = self._run_dir / CHECKPOINTS / name, f"{self._run_dir.name}/{name}"
        digests = (source / DIGESTS).read_bytes()
        there = self._try(lambda: self._destination.content(f"{target}/{DIGESTS}"))
        if there == digests:
            return None
        if there is not None:
            self._try(lambda: self._destination.remove(f"{target}/{DIGESTS}"))  # first: what is left of the folder is no copy
        self._try(lambda: self._destination.remove(target))
        size = sum(self._copy_file(source / file, wanted, f"{target}/{file}") for file, wanted in json.loads(digests).items())
        if (source / DIGESTS).read_bytes() != digests:
            raise UnfitError("the checkpoint was written again meanwhile")
        self._try(lambda: self._destination.put_content(digests, f"{target}/{DIGESTS}"))
        return size

    def _copy_file(self, file: Path, wanted: str, target: str) -> int:
        if digest(file) != wanted:
            raise UnfitError(f"{file.name} is damaged")
        self._try(lambda: self._destination.put(file, target))
        return file.stat().st_size

    def _try(self, action: Callable[[], Done]) -> Done:
        """Carry out `action`, again and again with back-off where it fails."""

        def unless_cancelled() -> Done:
            if self._cancelled():
                raise UnfitError("the run has ended")
            return action()

        return patiently(unless_cancelled, attempts=ATTEMPTS, first_wait_s=self._first_wait_s)


class Copies:
    """Takes committed checkpoints of the run in `run_dir` to `url`; without one it does nothing.

    Consumes: names of what is to be copied. Produces: copies, events. Waits for: the next name. Unblocked by: `add`, or `close`.
    A run does not end for a copy: once it is made, it raises nothing.
    """

    def __init__(
        self, url: str | None, run_dir: Path, events: Events, gauges: Gauges, *, known: int = 0, first_wait_s: float = FIRST_WAIT_S
    ) -> None:
        """Checkpoints up to step `known`, which earlier lives have left, are copied first, if they are not. Raises `UserError`."""
        self._events, self._gauges = events, gauges
        self._log = get_logger("copies")
        self._change = threading.Condition()
        self._queue: deque[str] = deque()
        self._current: str | None = None
        self._closed = False
        self._counts = {"copied": 0, "failed": 0}
        self._thread: threading.Thread | None = None
        if url is not None:
            copier = Copier(Destination(url, KEY), run_dir, first_wait_s, lambda: self._closed)
            self._queue += [CONFIG, *(_name(step) for step in steps_of(run_dir) if step <= known), BEST]
            self._thread = threading.Thread(target=self._work, args=(copier,), name="checkpoint-copies", daemon=True)
            self._thread.start()

    # --- for the learner ------------------------------------------------------------------------------------

    def add(self, step: int) -> None:
        """The checkpoint of `step` is committed."""
        self._add(_name(step))

    def add_best(self) -> None:
        """``best.json`` has changed; it follows the checkpoint that it names."""
        self._add(BEST)

    def held(self, doomed: Sequence[int]) -> set[int]:
        """Of the checkpoints that are no longer kept, those that must stay for now, since they are still to be copied."""
        with self._change:
            waiting = [step for step in sorted(doomed) if _name(step) in self._queue]
            late, held = waiting[:-MOST_HELD], set(waiting[-MOST_HELD:])
            for step in late:
                self._queue.remove(_name(step))
            held |= {step for step in doomed if _name(step) == self._current}
        for step in late:
            self._failed(_name(step), "copying is slower than the checkpoints come; newer ones go first")
        return held - set(late)

    def status(self) -> dict[str, Any] | None:
        """What waits, and what has become of the others; None where nothing is copied."""
        if self._thread is None:
            return None
        with self._change:
            return {"waiting": self._outstanding(), **self._counts}

    def close(self, proceed: Callable[[], bool], limit_s: float = CLOSE_LIMIT_S) -> None:
        """Wait until all is copied, at most `limit_s`, and no longer than `proceed`, asked every second, says True. No copy follows."""
        if self._thread is None:
            return
        until_s = time.monotonic() + limit_s
        while proceed() and (left_s := until_s - time.monotonic()) > 0 and self._thread.is_alive():
            with self._change:
                if not self._outstanding():
                    break
                self._change.wait(min(LOOK_EVERY_S, left_s))
        with self._change:
            late, self._closed = self._outstanding(), True
            self._queue.clear()
            self._change.notify_all()
        for name in late:
            self._tell_failed(name, "the run ended before it was copied; going on with the run copies it")

    # --- the thread -----------------------------------------------------------------------------------------

    def _work(self, copier: Copier) -> None:
        while (name := self._next()) is not None:
            started = time.monotonic()
            try:
                size = copier.copy(name)
            except Exception as error:  # noqa: BLE001 - whatever a library raises, the run goes on
                self._failed(name, f"{type(error).__name__}: {error}")
            else:
                if size is not None:
                    self._copied(name, size, time.monotonic() - started)
            with self._change:
                self._current = None
                self._change.notify_all()

    def _next(self) -> str | None:
        with self._change:
            self._change.wait_for(lambda: self._queue or self._closed)
            self._current = self._queue.popleft() if self._queue else None
            return self._current

    # --- both -----------------------------------------------------------------------------------------------

    def _add(self, name: str) -> None:
        if self._thread is None:
            return
        with self._change:
            with suppress(ValueError):
                self._queue.remove(name)
            self._queue.append(name)
            self._change.notify_all()

    def _outstanding(self) -> list[str]:
        return [*([self._current] if self._current is not None else []), *self._queue]

    def _copied(self, name: str, size: int, seconds: float) -> None:
        with self._change:
            if self._closed:
                return
            self._counts["copied"] += 1
            self._events.write("copy", name=name, size_bytes=size, seconds=seconds)
        self._gauges.copied(seconds)

    def _failed(self, name: str, reason: str) -> None:
        with self._change:
            if not self._closed:
                self._tell_failed(name, reason)

    def _tell_failed(self, name: str, reason: str) -> None:
        self._counts["failed"] += 1
        self._gauges.copy_failed()
        self._events.write("copy_failed", name=name, reason=reason)
        self._log.error("checkpoint not copied", name=name, reason=reason)


def _name(step: int) -> str:
    return f"step-{step}"
