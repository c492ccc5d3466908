"""Which reward server is asked next: the one with the least to do among those that are well. No clock inside, and no sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from actors.rewards.breaker import COOLDOWN_S, Breaker, State
from protocol.errors import UserError


@dataclass(slots=True, eq=False)
class Server:
    """One reward server, as the client sees it."""

    url: str
    breaker: Breaker = field(default_factory=Breaker)
    busy_until_s: float = float("-inf")
    """Until when it asked to be left alone."""
    outstanding_items: int = 0
    """Asked for and not yet answered."""
    scored_s: float | None = None
    """When it gave scores last."""
    turn: int = -1
    """When it was asked last, in requests of the client."""

    def admits(self, now_s: float) -> bool:
        """Neither set aside nor busy."""
        return now_s >= self.busy_until_s and self.breaker.admits(now_s)

    def admits_from_s(self, now_s: float) -> float:
        """When it will be so by the clock alone; infinite while a probe is under way, whose end will tell."""
        if self.breaker.state(now_s) is State.HALF_OPEN and not self.breaker.admits(now_s):
            return float("inf")
        return max(self.busy_until_s, now_s if self.breaker.admits(now_s) else self.breaker.retry_s)


class Balancer:
    """The servers of a run, and what is known of them."""

    def __init__(self, urls: Sequence[str], cooldown_s: float = COOLDOWN_S) -> None:
        """`cooldown_s`: for how long a server that failed is set aside first."""
        self._cooldown_s, self._turns = cooldown_s, 0
        self.servers: list[Server] = []
        self.use(urls)

    def use(self, urls: Sequence[str]) -> None:
        """From now on these servers; those that were known keep their standing."""
        known = {server.url: server for server in self.servers}
        self.servers = [known.get(url) or Server(url, Breaker(self._cooldown_s)) for url in urls]

    def pick(self, now_s: float) -> Server | None:
        """The server to ask now: least outstanding, then fewest failures in a row, then whose turn is longest ago. None: none admits."""
        fit = [server for server in self.servers if server.admits(now_s)]
        if not fit:
            return None
        server = min(fit, key=lambda one: (one.outstanding_items, one.breaker.failures, one.turn))
        server.turn, self._turns = self._turns, self._turns + 1
        return server

    def pause_s(self, now_s: float) -> float | None:
        """How long until some server admits by the clock; 0 when one does. None: only the end of a request can tell."""
        earliest_s = min(server.admits_from_s(now_s) for server in self.servers)
        return max(0.0, earliest_s - now_s) if earliest_s < float("inf") else None

    def states(self, now_s: float) -> Counter[str]:
        """How many servers are in each state, zeros included."""
        counted = Counter({str(state): 0 for state in State})
        counted.update(str(server.breaker.state(now_s)) for server in self.servers)
        return counted


def addresses(urls: Sequence[str]) -> list[str]:
    """Where servers are, in one spelling. Raises `UserError` for none, and for what is no HTTP address."""
    if not urls:
        raise UserError("no reward server is known", where="rewards.urls", fix="name one, or let the run start its own")
    for url in urls:
        if not _is_http(url):
            raise UserError(f"{url} is no HTTP address", where="rewards.urls", fix="write it as http://host:port")
    return [url.rstrip("/") for url in urls]


def _is_http(url: str) -> bool:
    try:
        parsed = urlsplit(url)
        return parsed.scheme in {"http", "https"} and bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        return False
