"""What the alerts go by: how long, how many."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are for production; times are in seconds."""

    gap_s: float = 120.0
    """A figure counts for this long after the scrape that brought it: some scrapes may fail."""
    window_s: float = 600.0
    """Rates and increases are looked at over this time."""
    known_s: float = 24 * 3600.0
    """A series that was there within this time is not a new one."""
    hold_s: float = 300.0
    """A condition has to hold this long."""
    actors_s: float = 900.0
    """The same for missing rollout actors, which may need this long to load a large model."""
    stalled_s: float = 1800.0
    """Longest time between two learner steps."""
    unacked_s: float = 2700.0
    """Longest time between two acknowledged group results, which a learner takes between its steps."""
    behind_s: float = 600.0
    """Longest time that a rollout actor may stay at an older policy version."""
    checkpoint_s: float = 4 * 3600.0
    """Longest time between two checkpoints."""
    disk_free_bytes: float = 5 * GIB
    disk_ahead_s: float = 4 * 3600.0
    """The disk may not be full within this time, going on as over `disk_trend_s`."""
    disk_trend_s: float = 6 * 3600.0
    """Long enough for the first checkpoints, which are many more than later ones leave, to be no trend."""
    stale_ratio: float = 0.2
    """Most results that may be dropped, for they are too old."""
    reward_error_ratio: float = 0.1
    """Most reward errors per sampled completion."""
    reward_window_s: float = 900.0
    """Rewards of this time are compared with those of `reward_before_s`, so much earlier."""
    reward_before_s: float = 3600.0
    refusals: float = 10.0
    """Most handshakes and messages that may be refused within `window_s`."""

    def scaled(self, factor: float) -> Limits:
        """All times multiplied; counts, sizes and shares stay."""
        times = {field.name: getattr(self, field.name) * factor for field in dataclasses.fields(self) if field.name.endswith("_s")}
        return dataclasses.replace(self, **times)


def duration(seconds: float) -> str:
    """As Prometheus writes it, in the largest unit that divides it; down to milliseconds."""
    milliseconds = max(1, round(1000 * seconds))
    unit, size = next((unit, size) for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)) if milliseconds % size == 0)
    return f"{milliseconds // size}{unit}"
