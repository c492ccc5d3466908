"""Which processes live and do no work: they do not answer, or answer that nothing moves. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from configs.machines import FleetSection
from ops.orders import Hung, Phase

BLINK_S = 5.0
"""Of a longer time between two looks no more than this counts: it was the supervisor, or its machine, that stood still."""


class Seen(NamedTuple):
    """One process at the moment of a look."""

    role: str
    phase: Phase
    pid: int | None
    """Another one is another attempt."""
    answered_s: float | None
    """When it last answered, on any clock."""
    status: Mapping[str, Any]
    """Its last answer."""


@dataclass
class _Watched:
    key: tuple[Phase, int | None]
    since_s: float
    answered_s: float | None
    heard_s: float


class HangWatch:
    """Looks at all processes about once a second.

    A process that holds Python's lock, or was stopped, does not answer. One that answers tells in `quiet_s` how long its work has
    not moved on, which is no time at all while it has none. Who is built, or starts its engine, has longer.
    """

    def __init__(self, section: FleetSection) -> None:
        self._section = section
        self._watched: dict[str, _Watched] = {}
        self._clock_s = 0.0
        self._looked_s: float | None = None

    def look(self, now_s: float, seen: Mapping[str, Seen]) -> list[Hung]:
        """Who hangs, each told once an attempt by whoever ends it."""
        self._clock_s += min(BLINK_S, now_s - self._looked_s) if self._looked_s is not None else 0.0
        self._looked_s = now_s
        return [Hung(name, reason) for name, each in seen.items() if (reason := self._verdict(name, each))]

    def _verdict(self, name: str, seen: Seen) -> str:
        """Why it hangs, or ""."""
        now_s, section, key = self._clock_s, self._section, (seen.phase, seen.pid)
        watched = self._watched.get(name)
        if watched is None or watched.key != key:
            self._watched[name] = watched = _Watched(key, now_s, seen.answered_s, now_s)
        if watched.answered_s != seen.answered_s:
            watched.answered_s, watched.heard_s = seen.answered_s, now_s
        age_s, limit_s = now_s - watched.since_s, section.learner_hang_timeout_s if seen.role == "learner" else section.hang_timeout_s
        if seen.phase is Phase.BUILDING:
            return f"it was not built within {section.start_timeout_s:g} s" if age_s > section.start_timeout_s else ""
        if seen.phase is not Phase.RUNNING:
            return ""
        if now_s - watched.heard_s > limit_s:
            return f"it has not answered for {now_s - watched.heard_s:.0f} s"
        if str(seen.status.get("state", "")).startswith("starting"):
            return f"it did not start within {section.start_timeout_s:g} s" if age_s > section.start_timeout_s else ""
        quiet_s = float(seen.status.get("quiet_s", 0.0))
        return f"it answers, but its work has not moved for {quiet_s:.0f} s" if quiet_s > limit_s else ""
