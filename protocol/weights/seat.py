"""A node fetcher's part in the group: a courier of its own, the seat that the store gives it, the broadcasts that it takes part in."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from protocol.errors import UserError
from protocol.logs import get_logger
from protocol.weights.courier import Courier, Done, Failed, Join, Joined, Moved, Ready, Receive, Report, Unfit
from protocol.weights.messages import Manifest, Seat, SeatRequest
from protocol.weights.pull import PullStoppedError
from protocol.weights.rounds import STALL_S

START_S = 120.0
"""For a courier to say whether its machine has what it needs."""
LOOK_S = 0.1
ENDS, WITHIN_S = 5, 60.0
"""A courier that ends so often within so many seconds, without a broadcast between, is not replaced."""


class GroupSeat:
    """Used by one thread."""

    def __init__(self, command: Sequence[str], member: str, host: str, stopped: Callable[[], bool]) -> None:
        """`host` is the weight store's machine. Raises `UserError` when this machine lacks what the courier needs."""
        self._command, self._member, self._host, self._stopped = command, member, host, stopped
        self._log = get_logger("fetcher")
        self._ends: deque[float] = deque(maxlen=ENDS)
        """When couriers have ended by themselves, since the last broadcast."""
        self._epoch = self._left = self._round = 0
        """The group that it is in, one that it has lost and does not join again, and the last round."""
        self.broadcasts = self._questions = 0
        """Versions that came whole, as far as the courier can tell."""
        self._start()
        wait_until_fit(self._courier, self._reports)

    @property
    def given_up(self) -> bool:
        """True when couriers kept ending: this node pulls for the rest of its life."""
        return len(self._ends) == ENDS and self._ends[-1] - self._ends[0] < WITHIN_S

    @property
    def request(self) -> SeatRequest | None:
        """What the weight store is told; None when this node takes part in no broadcast any more."""
        self._look()
        if self.given_up:
            return None
        self._questions += 1
        return SeatRequest(self._member, self._epoch, self._questions)

    def take(self, seat: Seat) -> None:
        """Join the group that the store names, and leave another one."""
        self._look()
        if seat.epoch == self._epoch or self.given_up:
            return
        if self._epoch:
            self._renew()
        if seat.epoch not in (0, self._left):
            self._epoch = seat.epoch
            self._courier.tell(Join(self._host, seat.port, seat.rank, seat.size))

    def receive(self, file: Path, manifest: Manifest) -> bool:
        """Take part in the broadcast of this version; True when all its bytes have been written into `file`.

        Returns at the latest when no byte has come for `STALL_S`. Raises `PullStoppedError`.
        """
        if manifest.broadcast <= self._round or not self._epoch:
            return False
        self._round = manifest.broadcast
        self._courier.tell(Receive(str(file), manifest.size_bytes))
        moved_s = time.monotonic()
        while time.monotonic() - moved_s < STALL_S:
            if self._stopped():
                raise PullStoppedError("the broadcast was told to stop")
            try:
                report = self._reports.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(report, Done):
                self.broadcasts += 1
                self._ends.clear()
                return True
            if isinstance(report, Moved | Joined):
                moved_s = time.monotonic()
            elif self._lost(report):
                return False
        self._leave("the broadcast does not move")
        return False

    def close(self) -> None:
        """End the courier, without waiting for it."""
        self._courier.abort(0)

    def _look(self) -> None:
        while not self._reports.empty():
            report = self._reports.get()
            if isinstance(report, Joined):
                self._log.info("joined the group of broadcasts", epoch=self._epoch)
            elif self._lost(report):
                return

    def _lost(self, report: Report) -> bool:
        if isinstance(report, Failed | Unfit):
            self._ends.append(time.monotonic())
            self._leave(report.reason)
            return True
        return False

    def _leave(self, reason: str) -> None:
        self._log.warning("left the group of broadcasts, versions are pulled", epoch=self._epoch, reason=reason)
        if self.given_up:
            self._log.error("couriers keep ending, versions are pulled from here on", ends=ENDS, within_s=WITHIN_S)
        self._left = self._epoch
        self._renew()

    def _renew(self) -> None:
        self._courier.abort()
        self._epoch = 0
        if not self.given_up:
            self._start()

    def _start(self) -> None:
        self._reports: queue.Queue[Report] = queue.Queue()
        self._courier = Courier(self._command, self._reports.put)


def wait_until_fit(courier: Courier, reports: queue.Queue[Report]) -> None:
    """Wait for a courier's first report. Raises `UserError`, and ends it, unless its machine has what it needs."""
    try:
        report: Report | None = reports.get(timeout=START_S)
    except queue.Empty:
        report = None
    if isinstance(report, Ready):
        return
    courier.abort()
    reason = report.reason if isinstance(report, Unfit | Failed) else f"the courier did not start within {START_S:.0f} s"
    fix = "set weights.backend=zmq, or weights.collective=gloo where there are no GPUs"
    raise UserError(reason, where="weights.backend: nccl", fix=fix)
