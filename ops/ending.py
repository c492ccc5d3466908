"""How a run ends: its outcome, and the waves in which its processes stop, each with a deadline. Pure."""

from __future__ import annotations

from ops.orders import Action, Drain, Finish, Kill, Phase, State, Stop
from ops.processes import Processes

WAVES = ({"learner"}, {"rollout"}, {"reward", "fetcher", "weight_store"})
"""Roles that stop together, in this order: the learner's end is that of the actors, and whoever asks stops before whoever answers."""
DRAIN_WAVES = ({"rollout"}, {"learner"}, {"reward", "fetcher", "weight_store"})
"""The same after `rba stop`: the learner goes on until it has what the actors were working on."""
FAREWELL_S = 20.0
"""Beyond `fleet.drain_s`: time for an actor to call off what it has not finished, to flush its results and to end its engine."""
SIGNAL_LIMITS_S = (8.0, 15.0, 17.0)
"""After Ctrl-C or SIGTERM each wave has until so long after the signal; with Ray's own end this stays below twenty seconds."""
DRAIN_LIMITS_S = (FAREWELL_S, 600.0, 10.0)
"""After `rba stop` each wave has so long for itself, the actors `fleet.drain_s` more; the learner finishes its step and writes the
checkpoint."""
FAILURE_LIMITS_S = (120.0, 30.0, 10.0)
"""After a process failed, and when the run is complete, each of `WAVES` has so long."""


class Ending:
    """Begins with the first `settle`; `advance` then goes from wave to wave until nothing is alive."""

    def __init__(self, processes: Processes, drain_s: float) -> None:
        self._processes, self._drain_s = processes, drain_s
        self.outcome: State | None = None
        self.reason = ""
        self._user_error = False
        self._wave = -1
        self._deadline_s = 0.0
        self._waves = WAVES
        self._limits_s: tuple[float, ...] = FAILURE_LIMITS_S
        self._hurried_since_s: float | None = None

    @property
    def begun(self) -> bool:
        """True once the first wave was told to stop."""
        return self._wave >= 0

    def settle(self, outcome: State, reason: str, *, user_error: bool = False) -> None:
        """The outcome, for now: what goes wrong while the run ends may change it. Nobody comes back."""
        self.outcome, self.reason, self._user_error = outcome, reason, user_error
        for process in self._processes.values():
            if process.phase is Phase.RESTARTING:
                process.phase = Phase.ENDED

    def settle_stop(self, reason: str, hurried_since_s: float | None) -> None:
        """The run is to stop; in a hurry when a signal said so."""
        self._hurried_since_s = hurried_since_s
        if hurried_since_s is None:
            rollout_s, *others_s = DRAIN_LIMITS_S
            self._waves, self._limits_s = DRAIN_WAVES, (rollout_s + self._drain_s, *others_s)
        self.settle(State.STOPPED, reason)

    def late(self, now_s: float) -> list[str]:
        """Those of the present wave that did not stop in time."""
        return self._processes.living(*self._waves[self._wave]) if self.begun and now_s >= self._deadline_s else []

    def advance(self, now_s: float) -> list[Action]:
        """Stop wave after wave once the outcome is settled; finish when none is alive."""
        if self.outcome is None:
            return []
        actions: list[Action] = []
        while not self.begun or not self._processes.living(*self._waves[self._wave]):
            if self._wave + 1 == len(self._waves):
                return [*actions, Finish(self.outcome, self.reason, self._user_error)]
            self._wave += 1
            hurried_s = self._hurried_since_s
            self._deadline_s = now_s + self._limits_s[self._wave] if hurried_s is None else hurried_s + SIGNAL_LIMITS_S[self._wave]
            actions += [action for name in self._processes.living(*self._waves[self._wave]) for action in self._stop(name)]
        return actions

    def kill(self, name: str) -> Action:
        """End a process that does not come back."""
        self._processes[name].phase = Phase.ENDED
        return Kill(name)

    def _stop(self, name: str) -> list[Action]:
        process, drains = self._processes[name], self._waves is DRAIN_WAVES and self._processes[name].role == "rollout"
        match process.phase:
            case Phase.STOPPING if drains:
                return []  # it leaves already, for a smaller fleet
            case Phase.STOPPING | Phase.RUNNING:
                process.phase = Phase.STOPPING
                return [Drain(name, self.reason) if drains else Stop(name, self.reason)]
            case _:
                return [self.kill(name)]  # nothing to save yet, and a constructor cannot be asked to return
