"""The journal as the learner uses it: what has to be durable before anybody relies on it, and what to do while the disk refuses."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from learner.gauges import Gauges
from learner.journal.journal import BufferFullError, Journal, NotDurableError
from learner.journal.records import Checkpointed, Received, Record
from protocol.logs import get_logger

REACHED = 2
"""Checkpoints that the journal reaches back to, however large it is: one, and the one before in case it is damaged."""
RETRY_S = 1.0
"""Between two tries to write to a disk that refused."""


class Logbook:
    """Takes records, and says when they are durable. One thread owns it; `status` may be called from any.

    A disk that is full or gone costs nothing but time: what waits stays in memory, which is bounded by what is leased.
    """

    def __init__(
        self,
        journal: Journal,
        gauges: Gauges,
        sequences: Mapping[int, int] | None = None,
        *,
        limit_bytes: float = math.inf,
        known: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sequences` are the places of results that an earlier life has received, by ordinal. `limit_bytes` is the size that the journal
        is held to; `known` is the last sequence that was durable at the checkpoint that this life begins with.
        """
        self._journal, self._gauges, self._limit_bytes, self._clock = journal, gauges, limit_bytes, clock
        self._behind_bytes = journal.bytes_behind(known)
        """What the journal has behind the last checkpoint, or behind the last one that the disk refused."""
        self._log = get_logger("journal")
        self._waiting: deque[Record] = deque()
        self._sequences = dict(sequences or {})
        self._tried_s = float("-inf")
        self.stalled = ""
        """Why nothing becomes durable at present, or ""."""

    def note(self, record: Record) -> None:
        """Take a record. It is durable once `commit` has said so."""
        self._waiting.append(record)

    def commit(self) -> bool:
        """Make everything durable that was noted; False while the disk refuses, which is tried again after `RETRY_S`."""
        if not self._waiting and not self.stalled:
            return True
        if self.stalled and self._clock() - self._tried_s < RETRY_S:
            return False
        started = self._tried_s = self._clock()
        before_bytes = self._journal.counts.bytes_on_disk
        try:
            while self._waiting:
                self._fill()
                self._journal.commit()
            self._journal.commit()  # what an earlier try has left in its buffer
        except NotDurableError as error:
            if not self.stalled:
                self._log.error("journal stalled", why=str(error))
            self.stalled = str(error)
            self._gauges.journal_refused()
            return False
        finally:
            self._behind_bytes += self._journal.counts.bytes_on_disk - before_bytes
        if self.stalled:
            self._log.warning("journal goes on")
            self.stalled = ""
        self._gauges.journalled(self._journal.counts, self._clock() - started)
        return True

    def _fill(self) -> None:
        while self._waiting:
            record = self._waiting[0]
            try:
                sequence = self._journal.append(record)
            except BufferFullError:
                return
            self._waiting.popleft()
            if isinstance(record, Received):
                self._sequences[record.result.ordinal] = sequence

    def position(self, untrained: Collection[int]) -> tuple[int, int]:
        """(last durable sequence, first one that is still needed), given the ordinals that have neither trained nor been dropped."""
        self.commit()
        kept = set(untrained)
        self._sequences = {ordinal: sequence for ordinal, sequence in self._sequences.items() if ordinal in kept}
        durable = self._journal.durable
        # While the disk refuses, the places of results lie behind what is durable, and may never be filled.
        return durable, min([durable + 1, *self._sequences.values()])

    @property
    def wants_checkpoint(self) -> bool:
        """True when so much lies behind the last one that the journal would outgrow its limit."""
        return 2 * self._behind_bytes > self._limit_bytes

    def begin_checkpoint(self) -> None:
        """One is about to be written; whether it succeeds or not, the next one is not wanted at once."""
        self._behind_bytes = 0

    def checkpointed(self, step: int, needs: Mapping[int, int], *, complete: bool) -> None:
        """The weights of `step` are on disk. `needs` tells the first sequence that each checkpoint needs, by its step.

        The journal goes on to reach back to all checkpoints, or where that is over its limit to the last `REACHED`. A complete run keeps
        it all, to be replayed.
        """
        self.note(Checkpointed(step, needs[step]))
        if not self.commit() or complete:
            return
        newest = [needs[each] for each in sorted(needs)[-REACHED:]]
        try:
            self._journal.free_below(min(needs.values()))
            if len(newest) == REACHED and self._journal.counts.bytes_on_disk > self._limit_bytes:
                self._journal.free_below(min(newest))
        except NotDurableError as error:
            self._log.warning("journal not freed", why=str(error))

    def status(self) -> dict[str, Any]:
        """Sizes, and whether it is stalled."""
        counts = self._journal.counts
        return {"bytes": counts.bytes_on_disk, "durable": self._journal.durable, "stalled": self.stalled}

    def close(self) -> None:
        """Let go of the files."""
        self._journal.close()
