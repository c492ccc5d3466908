"""What the supervision hears of the run's processes (events) and what it orders (actions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Of the whole run."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class Phase(StrEnum):
    """Of one process."""

    PLACING = "placing"
    """Ray looks for room for it."""
    WAITING = "waiting"
    """It has its place, and waits for what it needs."""
    BUILDING = "building"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    """It failed, and comes back after a pause."""
    ENDED = "ended"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """It failed too often, and does not come back."""


# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """Ray has started its process."""

    id: str
    fetcher: str = ""
    """The fetcher of its machine, for one that needs it; there may be none yet."""


@dataclass(frozen=True)
class Built:
    """The role's constructor has returned."""

    id: str


@dataclass(frozen=True)
class Ended:
    """The role's `run` has returned."""

    id: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The role's constructor or `run` raised, or its process died."""

    id: str
    reason: str
    user_error: bool = False
    """True when the user can mend it (exit code 2)."""
    detail: str = ""
    """More lines about it, such as the last ones that the process printed."""


@dataclass(frozen=True)
class Hung:
    """Its process lives and does no work."""

    id: str
    reason: str


@dataclass(frozen=True)
class Homeless:
    """It was to be placed on one machine and no other, which has left the cluster."""

    id: str
    machine: str


@dataclass(frozen=True)
class Gone:
    """Nothing is left of a process that was killed, nor of what it started."""

    id: str


@dataclass(frozen=True)
class StopRequested:
    """A signal, or `rba stop`. The second one ends everything at once."""

    reason: str
    hurried: bool = True
    """True for a signal: who sent it waits some seconds and then kills."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Scale:
    """There are to be so many rollout actors, spares not counted, or reward servers; None for as many as before."""

    actors: int | None = None
    rewards: int | None = None


Event = Placed | Built | Ended | Failed | Hung | Homeless | Gone | StopRequested | Scale | Tick

# --- actions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Ask Ray for a new process."""

    id: str


@dataclass(frozen=True)
class Build:
    """Construct the role; everything it needs is described by now."""

    id: str
    attempt: int = 0
    """How often the process was started before."""


@dataclass(frozen=True)
class Run:
    """Call the role's `run`."""

    id: str


@dataclass(frozen=True)
class Drain:
    """Call the role's `drain`: it leaves once what it works on is done."""

    id: str
    reason: str


@dataclass(frozen=True)
class Stop:
    """Call the role's `stop`."""

    id: str
    reason: str


@dataclass(frozen=True)
class Kill:
    """End the process and all that it started, at once; `Gone` is heard when that is done."""

    id: str


@dataclass(frozen=True)
class Finish:
    """Nothing is left to wait for."""

    state: State
    reason: str
    user_error: bool = False


Action = Place | Build | Run | Drain | Stop | Kill | Finish
