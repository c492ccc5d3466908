"""What both ends of a link have in common: a thread that owns a socket.

The dialogues decide, the threads carry: a thread owns its socket and its dialogue, and the rest of the process talks to it through
a mailbox. An error in a thread ends the link and surfaces in `raise_if_failed` and in whoever waits.
"""

from __future__ import annotations

import threading

import zmq

from protocol import logs, sockets
from protocol.errors import RbaError

TICK_MS = 200
CLOSE_S = 5.0
LINGER_MS = 200
"""Time for the last words."""


class LinkError(RbaError):
    """The I/O thread of a link ended with an error."""


class Loop:
    """A thread that polls one socket and one mailbox until it is told to end."""

    def __init__(self, name: str) -> None:
        self.context: sockets.Context = zmq.Context()
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def start(self) -> None:
        """Begin to carry."""
        self._thread.start()

    def raise_if_failed(self) -> None:
        """Raise what ended the thread."""
        if self.failure is not None:
            raise LinkError(f"{self._thread.name}: {self.failure}") from self.failure

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, which ends by what its mailbox told it; give up on a thread that does not."""
        if self._thread.ident is None:
            self._release()
            return
        self._thread.join(timeout_s)
        self._stop.set()

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - it surfaces in raise_if_failed
            self.failure = error
            logs.get_logger("link").error("link failed", exc_info=True)
        finally:
            self._release()

    def _release(self) -> None:
        self._on_end()
        self.context.destroy(linger=LINGER_MS)

    def _run(self) -> None:
        raise AssertionError("a link has a loop")

    def _on_end(self) -> None:
        raise AssertionError("a link has an end")
