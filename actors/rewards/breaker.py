"""A circuit breaker: whether a server is asked at all. A pure state machine, with the clock passed in.

closed ──failures──▶ open ──cooldown──▶ half open ──success of the one probe──▶ closed
                      ▲                    └──failure: twice the cooldown──┐
                      └────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from enum import StrEnum

FAILURES = 3
"""Failures in a row that open it; a decisive one does so alone."""
COOLDOWN_S = 1.0
COOLDOWN_MAX_S = 30.0


class State(StrEnum):
    """What the breaker says of its server."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Of one server. Whoever sends a request calls `begin`, and with what it returned exactly one of `succeed`, `fail` and `abandon`.

    What began before the breaker opened says nothing about the server as it is afterwards, and changes nothing.
    """

    def __init__(self, cooldown_s: float = COOLDOWN_S) -> None:
        """`cooldown_s`: the first one."""
        self._cooldown_s = cooldown_s
        self.failures = 0
        """In a row."""
        self.retry_s = float("-inf")
        """When it opened last, plus the cooldown."""
        self._epoch = 0
        self._openings = 0
        self._probing = False

    def state(self, now_s: float) -> State:
        """Open and half open differ by the clock alone."""
        if not self._openings:
            return State.CLOSED
        return State.OPEN if now_s < self.retry_s else State.HALF_OPEN

    def admits(self, now_s: float) -> bool:
        """True while closed; half open, one request at a time."""
        state = self.state(now_s)
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._probing)

    def begin(self, now_s: float) -> int:
        """A request goes out. Raises `ValueError` when it must not."""
        if not self.admits(now_s):
            raise ValueError(f"the breaker is {self.state(now_s)}")
        self._probing = self._openings > 0
        return self._epoch

    def succeed(self, begun: int) -> None:
        """The server did what it is there for, or said in good order why not."""
        if begun == self._epoch:
            self.failures = self._openings = 0
            self._probing = False

    def fail(self, begun: int, now_s: float, spread: float, *, decisive: bool) -> None:
        """It did not. `spread` (0 to 1) lengthens the cooldown by up to a half, so that many clients do not come back at once."""
        if begun != self._epoch:
            return
        self.failures += 1
        if decisive or self._probing or self.failures >= FAILURES:
            cooldown_s = min(COOLDOWN_MAX_S, self._cooldown_s * 2.0**self._openings)
            self.retry_s = now_s + cooldown_s * (1 + spread / 2)
            self._openings = min(self._openings + 1, 16)
            self._epoch += 1
            self._probing = False

    def abandon(self, begun: int) -> None:
        """Nobody will know how the request ended."""
        if begun == self._epoch:
            self._probing = False
