"""When each process of a run is built, run, stopped or killed, and how the run ends: a pure state machine.

    events (Built, Ended, Failed, StopRequested, Tick) ──▶ Supervision ──▶ actions (Build, Run, Stop, Kill, Finish)

No sockets, no clock, no Ray: `ops.launch` carries the actions out. A process is built once everything it needs has been
built, and runs at once. The run is over when the learner has ended; what is left then stops in waves, the ones that ask
before the ones that answer, each wave with a deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WAVES = ({"learner"}, {"rollout"}, {"reward", "fetcher", "weight_store"})
"""Roles that stop together, in this order: whoever asks stops before whoever answers."""
SIGNAL_LIMITS_S = (8.0, 15.0, 17.0)
"""After Ctrl-C or SIGTERM each wave has until so long after the signal; with Ray's own end this stays below twenty seconds."""
DRAIN_LIMITS_S = (600.0, 30.0, 10.0)
"""After `rba stop` each wave has so long for itself: the learner finishes its step and writes the checkpoint."""
FAILURE_LIMITS_S = (120.0, 30.0, 10.0)
"""The same after a process failed, and when the run is complete."""
LONELY_LIMIT_S = 60.0
"""A learner without a single actor left may still write its checkpoint this long."""


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

    WAITING = "waiting"
    BUILDING = "building"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


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
class StopRequested:
    """A signal, or `rba stop`. The second one ends everything at once."""

    reason: str
    hurried: bool = True
    """True for a signal: who sent it waits some seconds and then kills."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Built | Ended | Failed | StopRequested | Tick


@dataclass(frozen=True)
class Build:
    """Construct the role; everything it needs is described by now."""

    id: str


@dataclass(frozen=True)
class Run:
    """Call the role's `run`."""

    id: str


@dataclass(frozen=True)
class Stop:
    """Call the role's `stop`."""

    id: str
    reason: str


@dataclass(frozen=True)
class Kill:
    """End the process at once."""

    id: str


@dataclass(frozen=True)
class Finish:
    """Nothing is left to wait for."""

    state: State
    reason: str
    user_error: bool = False


Action = Build | Run | Stop | Kill | Finish


@dataclass
class _Process:
    role: str
    needs: frozenset[str]
    phase: Phase = Phase.WAITING

    @property
    def alive(self) -> bool:
        return self.phase in {Phase.BUILDING, Phase.RUNNING, Phase.STOPPING}


class Supervision:
    """The run's processes by id, with their role and the ids that each needs before it can be built."""

    def __init__(self, processes: Mapping[str, tuple[str, Iterable[str]]]) -> None:
        self._processes = {name: _Process(role, frozenset(needs)) for name, (role, needs) in processes.items()}
        self.state = State.STARTING
        self.reason = ""
        self.notes: list[str] = []
        """What went wrong after the outcome was settled: worth telling, changes nothing."""
        self.figures: dict[str, dict[str, Any]] = {}
        """Closing figures by process."""
        self._outcome: State | None = None
        self._user_error = False
        self._wave = -1
        self._deadline_s = 0.0
        self._limits_s = FAILURE_LIMITS_S
        self._hurried_since_s: float | None = None
        self._lonely_since_s: float | None = None

    @property
    def phases(self) -> dict[str, Phase]:
        """Phase of each process."""
        return {name: process.phase for name, process in self._processes.items()}

    def start(self) -> list[Action]:
        """Build everything that needs nothing."""
        return self._buildable()

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """What to do about `event`. `now_s` is any clock that only goes forward."""
        if self.state in {State.COMPLETED, State.STOPPED, State.FAILED}:
            return []
        match event:
            case Built(name):
                actions = self._built(name)
            case Ended(name, figures):
                self._processes[name].phase = Phase.ENDED
                self.figures[name] = dict(figures)
                actions = self._ended(name, now_s)
            case Failed():
                actions = self._failed(event)
            case StopRequested(reason, hurried):
                actions = self._stop_requested(reason, now_s if hurried else None)
            case Tick():
                actions = self._tick(now_s)
        return actions + self._advance(now_s)

    # --- starting -------------------------------------------------------------------------------------------

    def _buildable(self) -> list[Action]:
        built = {name for name, process in self._processes.items() if process.phase not in {Phase.WAITING, Phase.BUILDING}}
        ready = [name for name, process in self._processes.items() if process.phase == Phase.WAITING and process.needs <= built]
        for name in ready:
            self._processes[name].phase = Phase.BUILDING
        return [Build(name) for name in ready]

    def _built(self, name: str) -> list[Action]:
        process = self._processes[name]
        if process.phase is not Phase.BUILDING:
            return []  # it was told to stop meanwhile
        process.phase = Phase.RUNNING
        if self._outcome is None and all(each.phase is Phase.RUNNING for each in self._processes.values()):
            self.state = State.RUNNING
        return [Run(name)] if self._outcome is not None else [Run(name), *self._buildable()]

    # --- ending ---------------------------------------------------------------------------------------------

    def _ended(self, name: str, now_s: float) -> list[Action]:
        role = self._processes[name].role
        if self._outcome is not None:
            return []
        if role == "learner":
            if not any(process.alive for process in self._of("learner")):
                self._settle(State.COMPLETED, "the learner has taken its last step")
        elif role == "rollout":
            if self._lonely_since_s is None and not any(process.alive for process in self._of("rollout")):
                self._lonely_since_s = now_s
        else:
            self._settle(State.FAILED, f"{name} ended while it was still needed")
        return []

    def _failed(self, failed: Failed) -> list[Action]:
        name, process = failed.id, self._processes[failed.id]
        was_stopping = process.phase is Phase.STOPPING
        process.phase = Phase.FAILED
        if failed.detail:
            self.notes.append(f"{name} said last:\n{failed.detail}")
        if self._outcome is not None and (process.role != "learner" or self._outcome is State.FAILED):
            self.notes.append(f"{name} while stopping: {failed.reason}")
            return []
        self._settle(State.FAILED, f"{name}{' while stopping' if was_stopping else ''}: {failed.reason}", user_error=failed.user_error)
        if process.role != "learner":
            return []
        # The other ranks wait in a collective for the one that failed: they cannot drain.
        others = [other for other, each in self._processes.items() if each.role == "learner" and each.alive]
        return [self._kill(other) for other in others]

    def _stop_requested(self, reason: str, hurried_since_s: float | None) -> list[Action]:
        if self._outcome is not None and self._wave >= 0:
            self._settle(self._outcome, self.reason)
            self.notes.append(f"at once: {reason}")
            return [self._kill(name) for name, process in self._processes.items() if process.alive]
        self._hurried_since_s = hurried_since_s
        self._limits_s = DRAIN_LIMITS_S
        self._settle(State.STOPPED, reason)
        return []

    def _tick(self, now_s: float) -> list[Action]:
        if self._outcome is None and self._lonely_since_s is not None and now_s - self._lonely_since_s > LONELY_LIMIT_S:
            self._settle(State.FAILED, "every rollout actor has ended, and the learner has not")
        if self._wave >= 0 and now_s >= self._deadline_s:
            late = [name for name, process in self._processes.items() if process.alive and process.role in WAVES[self._wave]]
            self.notes.extend(f"{name} did not stop in time and was killed" for name in late)
            return [self._kill(name) for name in late]
        return []

    def _settle(self, outcome: State, reason: str, *, user_error: bool = False) -> None:
        self._outcome, self.reason, self._user_error = outcome, reason, user_error
        self.state = State.STOPPING

    def _advance(self, now_s: float) -> list[Action]:
        """Stop wave after wave once the outcome is settled; finish when none is alive."""
        if self._outcome is None:
            return []
        actions: list[Action] = []
        while self._wave < 0 or not any(each.alive for each in self._processes.values() if each.role in WAVES[self._wave]):
            if self._wave + 1 == len(WAVES):
                self.state = self._outcome
                return [*actions, Finish(self._outcome, self.reason, self._user_error)]
            self._wave += 1
            hurried_s = self._hurried_since_s
            self._deadline_s = now_s + self._limits_s[self._wave] if hurried_s is None else hurried_s + SIGNAL_LIMITS_S[self._wave]
            actions += [self._stop(name) for name, each in self._processes.items() if each.role in WAVES[self._wave] and each.alive]
        return actions

    def _stop(self, name: str) -> Action:
        process = self._processes[name]
        if process.phase is Phase.BUILDING:
            return self._kill(name)  # nothing to save yet, and a constructor cannot be asked to return
        process.phase = Phase.STOPPING
        return Stop(name, self.reason)

    def _kill(self, name: str) -> Action:
        self._processes[name].phase = Phase.ENDED
        return Kill(name)

    def _of(self, role: str) -> list[_Process]:
        return [process for process in self._processes.values() if process.role == role]
