"""The weight store's part in the group: its courier, which is rank 0, does what `protocol.weights.rounds` decides."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from protocol.logs import get_logger
from protocol.messages import PolicyVersion
from protocol.weights.courier import Courier, Done, Failed, Join, Joined, Listening, Moved, Report, Send, Unfit
from protocol.weights.files import directory_of
from protocol.weights.messages import Seat, SeatRequest
from protocol.weights.rounds import Action, Broadcast, Dissolve, Form, Rounds, Tell
from protocol.weights.seat import wait_until_fit


class Broadcasts:
    """Used by the thread that answers the store's peers, which never waits for the group."""

    def __init__(self, command: Sequence[str], root: Path, bind: str, tell: Callable[[bytes, int], None], wake: Callable[[], None]) -> None:
        """`tell` answers a peer with the newest version's manifest and a round; `wake` is called in other threads and has `tick` called.

        Raises `UserError` when this machine lacks what the courier needs.
        """
        self._command, self._root, self._bind, self._tell, self._wake = command, root, bind, tell, wake
        self._rounds = Rounds(time.time_ns() // 1_000)
        self._log = get_logger("weight_store")
        self.sent = 0
        """Versions that have gone to the group."""
        self._start()
        wait_until_fit(self._courier, self._reports)

    @property
    def state(self) -> str:
        """Of the group: none | forming | ready | sending | given up."""
        return self._rounds.state

    def seat(self, request: SeatRequest) -> Seat:
        """Answer a member."""
        self._do(self._rounds.heard(request, time.monotonic()))
        return self._rounds.seat(request.member)

    def ask(self, request: SeatRequest, peer: bytes, newest: PolicyVersion | None) -> None:
        """A member wants the newest version; `tell` is called for it, here or later."""
        self._do(self._rounds.ask(request, peer, newest, time.monotonic()))

    def tick(self) -> None:
        """Look at the courier and at the clock."""
        while not self._reports.empty():
            self._reported(self._reports.get())
        self._do(self._rounds.tick(time.monotonic()))

    def close(self) -> None:
        """End the courier, without waiting for it."""
        self._courier.abort(0)

    def _reported(self, report: Report) -> None:
        now_s = time.monotonic()
        match report:
            case Listening():
                self._rounds.listening(report.port)
            case Joined():
                self._rounds.joined()
                self._log.info("the group of broadcasts is complete")
            case Moved():
                self._rounds.moved(now_s)
            case Done():
                self._rounds.done()
                self.sent += 1
            case Failed() | Unfit():
                self._do(self._rounds.failed(report.reason, now_s))
            case _:
                pass

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Form():
                    self._courier.tell(Join(self._bind, 0, 0, action.size))
                case Tell():
                    self._tell(action.peer, action.round)
                case Broadcast():
                    self._log.info("broadcast", policy_version=str(action.version))
                    self._courier.tell(Send(str(directory_of(self._root, action.version))))
                case Dissolve():
                    follows = (
                        "there will be no other one, versions are pulled"
                        if action.for_good
                        else "versions are pulled until there is another"
                    )
                    self._log.warning("the group of broadcasts has ended", reason=action.reason, follows=follows)
                    self._courier.abort()
                    if not action.for_good:
                        self._start()

    def _start(self) -> None:
        self._reports: queue.Queue[Report] = queue.Queue()
        self._courier = Courier(self._command, self._put)

    def _put(self, report: Report) -> None:
        self._reports.put(report)
        self._wake()
