"""Ctrl-C and SIGTERM as events of the supervisor's loop, and everything else that is asked of a run."""

from __future__ import annotations

import os
import queue
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from ops.orders import Scale, StopRequested

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 3
"""The third signal ends the supervisor on the spot; its guard then cleans up."""


class Signals:
    """A context manager that owns the signals while it is open.

    Until `queue` is called a signal raises `KeyboardInterrupt`, as there is nothing yet to stop in order; from then on it
    waits in `take`. The first asks for an orderly end, the second for an immediate one.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[StopRequested | Scale] = queue.SimpleQueue()
        self._queueing = False
        self._count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in WATCHED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def queue(self) -> None:
        """From now on signals are events. Takes the handlers back from Ray, which has put its own in their place."""
        self._queueing = True
        for number in self._before:
            signal.signal(number, self._receive)

    def put(self, event: StopRequested | Scale) -> None:
        """A request from elsewhere; from any thread."""
        self._events.put(event)

    def take(self) -> list[StopRequested | Scale]:
        """What has come since the last call."""
        events = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        name = signal.Signals(number).name
        if not self._queueing:
            self._queueing = True  # a second signal must not interrupt the clean-up
            raise KeyboardInterrupt(name)
        self._events.put(StopRequested(name))
        if self._count >= PATIENCE:
            os._exit(1)
