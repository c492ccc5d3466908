"""Merges the items of concurrent requests into batches for one scorer, which works in a thread of its own.

Which items go together is decided in `actors.rewards.packing`.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from actors.rewards.items import RewardItem, RewardScore, checked, unscored
from actors.rewards.packing import pack
from actors.rewards.scorers.scorer import Scorer, cost_of

BROKEN_AFTER = 3
"""Batches in a row in which the scorer raised for every single item; then the scorer, not the items, is at fault."""
RETRY_AFTER_MAX_S = 30
LOOK_AHEAD = 4
"""Batches' worth of the oldest items, of which those of like cost go together."""
HEADROOM = 0.8
"""Of the server's patience, what may be promised by its pace, which is a mean. A client that tells its own has seen to that itself."""
REMEMBER = 0.8
"""What the last batch's pace keeps of its weight when the next one comes."""


class QueueFullError(Exception):
    """The items waiting already take longer than anyone would wait."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} items wait already")
        self.retry_after_s = retry_after_s


class ScorerBrokenError(RuntimeError):
    """The scorer raises whatever it is given; the server has to be started anew."""


@dataclass(slots=True)
class Ticket:
    """One request's items on their way through the queue."""

    deadline_s: float
    """On the monotonic clock; nobody waits for the answer afterwards."""
    scores: list[RewardScore | None]
    missing: int
    answer: Future[list[RewardScore]] = field(default_factory=Future)

    def settle(self, slot: int, score: RewardScore) -> None:
        """Notes one outcome, and answers with the last one."""
        self.scores[slot] = score
        self.missing -= 1
        if not self.missing:
            with suppress(InvalidStateError):  # its handler was cancelled meanwhile
                self.answer.set_result([outcome for outcome in self.scores if outcome is not None])


@dataclass(slots=True)
class Waiting:
    """One item in the queue."""

    ticket: Ticket
    slot: int
    item: RewardItem
    cost: int = 0
    """As the scorer tells it; 0 until it is asked."""


@dataclass(slots=True)
class Pace:
    """Seconds an item, of recent batches; large batches count for more, since that is what a queue is worked off in."""

    seconds: float = 0.0
    items: float = 0.0

    def note(self, seconds: float, items: int) -> None:
        """One more batch."""
        self.seconds, self.items = REMEMBER * self.seconds + seconds, REMEMBER * self.items + items

    @property
    def seconds_per_item(self) -> float:
        """0 until there was a batch."""
        return self.seconds / self.items if self.items else 0.0


@dataclass(slots=True)
class Tally:
    """What a batcher has done so far."""

    items: int = 0
    errors: int = 0
    batches: int = 0
    busy_s: float = 0.0


class Batcher:
    """A bounded queue of items in front of one scorer.

    `submit` is thread-safe; `run` is the scorer's thread.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        batch_items: int,
        batch_tokens: int,
        capacity_items: int,
        patience_s: float,
        on_error: Callable[[Exception], None] = lambda _: None,
        on_batch: Callable[[list[RewardScore], float], None] = lambda _scores, _seconds: None,
        on_expired: Callable[[], None] = lambda: None,
    ) -> None:
        """`batch_tokens` bounds a batch by what the scorer says that items cost, padding included. `patience_s`: how long a request waits
        for its scores. `on_expired` hears of each item that was not scored in time, `on_error` what the scorer
        raises, `on_batch` scores and seconds.
        """
        self._scorer = scorer
        self._cost_of = cost_of(scorer)
        self._batch_items = batch_items
        self._batch_tokens = batch_tokens
        self.capacity_items = capacity_items
        self._patience_s = patience_s
        self._on_error = on_error
        self._on_batch = on_batch
        self._on_expired = on_expired
        self._queue: deque[Waiting] = deque()
        self._planned: deque[list[Waiting]] = deque()
        """Batches of items that have left the queue, in their order."""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._pace = Pace()
        self._in_flight_items = 0
        self._raised_items = 0
        self._failures_in_a_row = 0
        self._busy_since_s: float | None = None
        self.tally = Tally()

    @property
    def quiet_s(self) -> float:
        """For how long the scorer has been at its present batch."""
        return 0.0 if (since_s := self._busy_since_s) is None else time.monotonic() - since_s

    @property
    def waiting_items(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._queue) + sum(map(len, list(self._planned)))  # a copy: the threads of requests ask too

    def submit(self, items: Sequence[RewardItem], patience_s: float | None = None) -> Future[list[RewardScore]]:
        """Queues `items` (at least one, at most `capacity_items`); the future holds their scores in order.

        Raises `QueueFullError` when they do not fit, or would not be scored within the patience of a request, which may have less than
        the server. One that comes to an idle scorer is always taken.
        """
        patience_s = min(math.inf if patience_s is None else patience_s, self._patience_s)
        room_s = min(patience_s, HEADROOM * self._patience_s)
        with self._changed:
            waiting = self.waiting_items
            expected_s = self._expected_s(waiting + len(items))
            late_s = max(expected_s, self.quiet_s)  # a batch that takes far longer than the last ones says nothing of when it ends
            full = waiting + len(items) > self.capacity_items
            if (waiting or self._in_flight_items) and (full or late_s > room_s):
                raise QueueFullError(waiting, min(RETRY_AFTER_MAX_S, max(1, math.ceil(expected_s - room_s))))
            ticket = Ticket(time.monotonic() + patience_s, [None] * len(items), len(items))
            if self._closed.is_set():
                ticket.answer.set_exception(ScorerBrokenError("the reward server is stopping"))
                return ticket.answer
            self._queue.extend(Waiting(ticket, slot, item) for slot, item in enumerate(items))
            self._changed.notify()
        return ticket.answer

    def _expected_s(self, items: int) -> float:
        """When the last of `items` in the queue will have its score, going by the pace of recent batches."""
        rate = self._pace.seconds_per_item
        return max(0.0, self._in_flight_items * rate - self.quiet_s) + items * rate

    def run(self) -> None:
        """The scorer's loop, until `close`.

        Consumes: items of `submit`. Produces: the futures' results. Waits for: an item in the queue.
        Unblocked by: `submit`, `close`. Raises `ScorerBrokenError` when the scorer fails whatever it is given.
        """
        try:
            while batch := self._take():
                started_s = time.monotonic()
                scores = self._score([waiting.item for waiting in batch])
                self._note(scores, time.monotonic() - started_s)
                self._busy_since_s, self._in_flight_items = None, 0
                for waiting, score in zip(batch, scores, strict=True):
                    waiting.ticket.settle(waiting.slot, score)
                if self._failures_in_a_row >= BROKEN_AFTER:
                    raise ScorerBrokenError(f"the scorer raised for every item of {BROKEN_AFTER} batches in a row")
        finally:
            self.close()

    def close(self) -> None:
        """Ends `run` after its current batch; what still waits ends with an exception."""
        with self._changed:
            self._closed.set()
            left = [*itertools.chain.from_iterable(self._planned), *self._queue]
            self._planned.clear()
            self._queue.clear()
            self._changed.notify_all()
        for waiting in left:
            with suppress(InvalidStateError):  # several items share one answer
                waiting.ticket.answer.set_exception(ScorerBrokenError("the reward server is stopping"))

    def _take(self) -> list[Waiting]:
        """The next batch, across requests; empty once closed. What nobody waits for any more is left out."""
        while True:
            with self._changed:
                if not (self._queue or self._planned):
                    self._busy_since_s = None
                self._changed.wait_for(lambda: self._queue or self._planned or self._closed.is_set())
                if self._closed.is_set():
                    return []
                if self._busy_since_s is None:
                    self._busy_since_s = time.monotonic()
                # Of all that is planned, not of the next batch alone: who is to hear that it is too late hears it now.
                self._planned = deque(batch for planned in self._planned if (batch := self._awaited(planned)))
                if self._planned:
                    self._in_flight_items = len(self._planned[0])
                    return self._planned.popleft()
                ahead = self._look_ahead()
            for waiting in ahead:
                waiting.cost = waiting.cost or self._cost(waiting.item)  # outside of the lock: tokenising takes its time
            batches = pack([waiting.cost for waiting in ahead], self._batch_items, self._batch_tokens)
            with self._changed:
                if self._closed.is_set():
                    return []
                for _ in ahead:
                    self._queue.popleft()
                self._planned.extend([ahead[index] for index in batch] for batch in batches)

    def _look_ahead(self) -> list[Waiting]:
        """The oldest items, left in the queue. They go before any newer one: nobody waits for longer than for his turn and these."""
        kept: list[Waiting] = []
        while self._queue and len(kept) < LOOK_AHEAD * self._batch_items:
            kept += self._awaited([self._queue.popleft()])
        self._queue.extendleft(reversed(kept))
        return kept

    def _awaited(self, waitings: Sequence[Waiting]) -> list[Waiting]:
        """Those that somebody still waits for."""
        now_s = time.monotonic()
        for waiting in waitings:
            if waiting.ticket.deadline_s < now_s:
                self.tally.errors += 1
                self._on_expired()
                waiting.ticket.settle(waiting.slot, unscored(waiting.item.id, "expired: the queue is too long"))
        return [waiting for waiting in waitings if waiting.ticket.deadline_s >= now_s and not waiting.ticket.answer.done()]

    def _cost(self, item: RewardItem) -> int:
        """At least 1. A scorer that raises is asked again when the item is scored, and its answer is the item's outcome."""
        try:
            return max(1, self._cost_of(item))
        except Exception:  # noqa: BLE001 - see above
            return 1

    def _score(self, items: list[RewardItem]) -> list[RewardScore]:
        """One outcome an item. Where the scorer raises, halves are tried, so that one item harms no other."""
        try:
            return [checked(score) for _, score in zip(items, self._scorer.score(items), strict=True)]
        except Exception as error:  # noqa: BLE001 - reported, counted, and the item's outcome
            if len(items) == 1:
                self._raised_items += 1
                self._on_error(error)
                return [unscored(items[0].id, f"scorer: {type(error).__name__}: {error}")]
            half = len(items) // 2
            return self._score(items[:half]) + self._score(items[half:])

    def _note(self, scores: list[RewardScore], seconds: float) -> None:
        items = len(scores)
        self._failures_in_a_row = self._failures_in_a_row + 1 if self._raised_items == items else 0
        self._raised_items = 0
        self._pace.note(self.quiet_s, items)  # with the time to weigh and to pack them, which counts for those that wait
        self.tally.items += items
        self.tally.errors += sum(score.error is not None for score in scores)
        self.tally.batches += 1
        self.tally.busy_s += seconds
        self._on_batch(scores, seconds)
