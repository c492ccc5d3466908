"""When each process of a run is built, run, restarted, stopped or killed, and how the run ends: a pure state machine.

    events (Placed, Built, Ended, Failed, Hung, Homeless, Gone, StopRequested, Scale, Tick)
        ──▶ Supervision ──▶ actions (Place, Build, Run, Drain, Stop, Kill, Finish)

No sockets, no clock, no Ray: `ops.hands` carries the actions out. A process is built once everything it needs has been
built, and runs at once. One that fails comes back under its own id once nothing of it is left, until its budget is spent
(`ops.restarts`); then it is quarantined, and the run goes on with what is left. The learner's ranks come back together, or not
at all. The run is over when the learner has ended; what is left then stops in waves, the ones that ask before the ones that
answer, each wave with a deadline.

Spares join once everything runs. One that runs takes the place of an actor that does not, which is the spare when it is back.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from configs.machines import FleetSection
from ops.ending import Ending
from ops.orders import (
    Action,
    Build,
    Built,
    Ended,
    Event,
    Failed,
    Finish,
    Gone,
    Homeless,
    Hung,
    Kill,
    Phase,
    Place,
    Placed,
    Run,
    Scale,
    State,
    StopRequested,
    Tick,
)
from ops.processes import RETIRED, Process, Processes
from ops.restarts import Restarts
from ops.sizing import Sizing

OWN_FETCHER = "fetcher-0"
"""On the supervisor's machine. Other machines may be lost with what runs there."""
LONELY_LIMIT_S = 60.0
"""A learner without a single actor left may still write its checkpoint this long."""


class Supervision:
    """The run's processes by id, with their role and the ids that each needs before it can be built.

    The run can do without processes of the roles in `optional`.
    """

    def __init__(
        self,
        processes: Mapping[str, tuple[str, Iterable[str]]],
        section: FleetSection | None = None,
        optional: Iterable[str] = (),
        chance: random.Random | None = None,
    ) -> None:
        section, chance = section or FleetSection(), chance or random.Random(0)
        self._processes = Processes.of(processes)
        self._optional = frozenset(optional)
        self._restarts = Restarts(section.restarts, section.restart_window_s, section.restart_wait_s, chance)
        self._learner_restarts = Restarts(section.learner_restarts, math.inf, section.restart_wait_s, chance)
        self._ending = Ending(self._processes, section.drain_s)
        self.state = State.STARTING
        self.notes: list[str] = []
        """What people should hear of, though it need not end the run."""
        self._sizing = Sizing(self._processes, section, self.notes, self._ending.kill)
        self.figures: dict[str, dict[str, Any]] = {}
        """Closing figures by process."""
        self.hung: Counter[str] = Counter()
        """How often each process was ended since it did no work."""
        self.restarted: Counter[str] = Counter()
        """How often each process was restarted."""
        self._lonely_since_s: float | None = None

    @property
    def reason(self) -> str:
        """Why the run ends, or ended."""
        return self._ending.reason

    @property
    def wanted(self) -> dict[str, int]:
        """How many of each role there are to be, by role, and "spare"."""
        return {**self._sizing.wanted, "spare": self._sizing.wanted_spares}

    @property
    def present_actors(self) -> int:
        """Rollout actors that run, or are going to, spares not counted: fewer than are wanted once one is quarantined."""
        return len(self._processes.members("rollout"))

    @property
    def spares(self) -> list[str]:
        """The rollout actors that are spares, or are going to be."""
        return self._processes.spares()

    @property
    def rewards(self) -> list[str]:
        """The reward servers that may be asked: those that run, or come back."""
        return self._processes.members("reward")

    def vacant(self, role: str) -> int:
        """Quarantined processes of a role whose place nobody has taken, be it a spare or one that `rba scale` asked for."""
        phases, wanted = [each.phase for _, each in self._processes.role(role)], self.wanted
        quarantined = phases.count(Phase.QUARANTINED)
        if role not in wanted:
            return quarantined
        return min(quarantined, max(0, wanted[role] - len(self._processes.members(role))))

    @property
    def phases(self) -> dict[str, Phase]:
        """Phase of each process."""
        return {name: process.phase for name, process in list(self._processes.items())}  # control's threads ask too

    @property
    def fleet(self) -> dict[str, Any]:
        """For the summary: restarts by process, and who is quarantined."""
        return {
            "restarts": dict(self.restarted),
            "quarantined": [name for name, phase in self.phases.items() if phase is Phase.QUARANTINED],
        }

    def start(self) -> list[Action]:
        """Build everything that needs nothing."""
        return self._buildable()

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """What to do about `event`. `now_s` is any clock that only goes forward."""
        if self.state in {State.COMPLETED, State.STOPPED, State.FAILED}:
            return []
        match event:
            case Placed(name, fetcher):
                actions = self._placed(name, fetcher)
            case Built(name):
                actions = self._built(name)
            case Ended(name, figures):
                actions = self._ended(name, figures, now_s)
            case Failed():
                actions = self._failed(event, now_s)
            case Hung(name, reason):
                actions = self._hung(name, reason, now_s)
            case Homeless(name, machine):
                actions = self._homeless(name, machine, now_s)
            case Gone(name):
                self._processes[name].gone = True
                actions = []
            case StopRequested(reason, hurried):
                actions = self._stop_requested(reason, now_s if hurried else None)
            case Scale(actors, rewards):
                sizes = {"rollout": actors, "reward": rewards} if self._ending.outcome is None else {}
                actions = [action for role, wanted in sizes.items() for action in self._sizing.scale(role, wanted, now_s)]
            case Tick():
                actions = self._tick(now_s)
        self._watch(now_s)
        if self._ending.outcome is None and self.state is State.RUNNING:
            actions += self._sizing.relieve()
        actions += self._ending.advance(now_s)
        if actions and isinstance(finish := actions[-1], Finish):
            self.state = finish.state
        return actions

    # --- starting -------------------------------------------------------------------------------------------

    def _placed(self, name: str, fetcher: str) -> list[Action]:
        process = self._processes[name]
        if process.phase is not Phase.PLACING:
            return []  # it was killed meanwhile
        process.phase = Phase.WAITING
        actions: list[Action] = []
        if self._ending.outcome is None and fetcher and self._lacks(fetcher):
            # Ray found room on a machine that the run had nothing on.
            self._processes[fetcher] = Process("fetcher", self._processes[OWN_FETCHER].needs, Phase.PLACING, added=True)
            actions = [Place(fetcher)]
        process.needs |= {fetcher} if fetcher else set()
        return [*actions, *self._buildable()]

    def _lacks(self, fetcher: str) -> bool:
        """True when it is not there, or left with its machine, which is back."""
        known = self._processes.get(fetcher)
        return known is None or known.phase is Phase.ENDED

    def _buildable(self) -> list[Action]:
        ready = self._processes.buildable() if self._ending.outcome is None else []
        for name in ready:
            self._processes[name].phase = Phase.BUILDING
        return [Build(name, self._processes[name].attempt) for name in ready]

    def _built(self, name: str) -> list[Action]:
        process = self._processes[name]
        if process.phase is not Phase.BUILDING:
            return []  # it was told to stop meanwhile
        process.phase, process.built = Phase.RUNNING, True
        return [Run(name), *self._buildable()]

    def _watch(self, now_s: float) -> None:
        """Notes that everything runs for the first time, and since when the learner has no actor."""
        if self.state is State.STARTING and all(each.built or each.added or each.phase in RETIRED for each in self._processes.values()):
            self.state = State.RUNNING
        if self._ending.outcome is not None or self._processes.any_present("rollout"):
            self._lonely_since_s = None
        elif self._lonely_since_s is None:
            self._lonely_since_s = now_s

    # --- coming back ----------------------------------------------------------------------------------------

    def _failed(self, failed: Failed, now_s: float) -> list[Action]:
        name, process = failed.id, self._processes[failed.id]
        if not process.alive:
            return []  # it was killed meanwhile
        if failed.detail:
            self.notes.append(f"{name} said last:\n{failed.detail}")
        if self._ending.outcome is not None:
            return self._failed_while_ending(failed)
        if process.leaves_until_s is not None:
            self.notes.append(f"{name} while leaving: {failed.reason}")
            return [self._ending.kill(name)]
        process.phase = Phase.FAILED
        if process.role == "learner":
            return self._learner_failed(failed, now_s)
        hopeless = failed.user_error and process.attempt == 0
        if hopeless and not process.added:
            self._settle(State.FAILED, f"{name}: {failed.reason}", user_error=True)
            return []
        pause_s = None if hopeless else self._restarts.grant(name, now_s)
        if pause_s is None:
            return self._quarantine(failed)
        self._come_back([name], failed, now_s, pause_s)
        return [Kill(name)]

    def _hung(self, name: str, reason: str, now_s: float) -> list[Action]:
        """As a failure, but the process has to be ended whatever becomes of it. One that is stopping has its deadline there."""
        if self._processes[name].phase not in {Phase.BUILDING, Phase.RUNNING}:
            return []
        self.hung[name] += 1
        actions = self._failed(Failed(name, reason), now_s)
        return actions if Kill(name) in actions else [Kill(name), *actions]

    def _homeless(self, name: str, machine: str, now_s: float) -> list[Action]:
        """A fetcher is wanted where actors are, and comes back with the machine. Others fail for the lack of it."""
        process = self._processes[name]
        if process.role != "fetcher" or not process.alive or self._ending.outcome is not None:
            return self._failed(Failed(name, f"its machine {machine} has left the cluster"), now_s)
        process.phase, process.gone = Phase.ENDED, True
        self.notes.append(f"{name} has left with its machine {machine}")
        return self._buildable()

    def _learner_failed(self, failed: Failed, now_s: float) -> list[Action]:
        """The other ranks wait in a collective for the one that failed: all come back from the last checkpoint, or none."""
        ranks = dict(self._processes.role("learner"))
        may = not failed.user_error and all(rank.phase is not Phase.ENDED for rank in ranks.values())
        pause_s = self._learner_restarts.grant("learner", now_s) if may else None
        if pause_s is None:
            self._settle(State.FAILED, f"{failed.id}: {failed.reason}", user_error=failed.user_error)
            return [self._ending.kill(name) for name in self._processes.living("learner")]
        self._come_back(list(ranks), failed, now_s, pause_s)
        return [Kill(name) for name in ranks]

    def _come_back(self, names: list[str], failed: Failed, now_s: float, pause_s: float) -> None:
        for name in names:
            self._processes[name].come_back(now_s + pause_s)
            self.restarted[name] += 1
        self.notes.append(f"{failed.id} failed and is restarted in {pause_s:.1f} s: {failed.reason}")

    def _quarantine(self, failed: Failed) -> list[Action]:
        process = self._processes[failed.id]
        process.phase = Phase.QUARANTINED
        self.notes.append(f"{failed.id} failed too often and is quarantined: {failed.reason}")
        lost = not self._processes.members(process.role)
        self._sizing.vacate(failed.id)
        if process.role == "rollout":
            # An actor that ended by itself was told that the run is over; then the learner's end decides.
            ended = any(each.phase is Phase.ENDED for _, each in self._processes.role("rollout"))
            lost = lost and not ended and not self._processes.spares()
        if failed.id == OWN_FETCHER or (lost and process.role not in self._optional):
            self._settle(State.FAILED, f"{failed.id} failed too often: {failed.reason}")
        return [Kill(failed.id), *self._buildable()]

    # --- ending ---------------------------------------------------------------------------------------------

    def _ended(self, name: str, figures: Mapping[str, Any], now_s: float) -> list[Action]:
        process = self._processes[name]
        if not process.alive:
            return []  # it was killed meanwhile
        if self._ending.outcome is None and process.leaves_until_s is None and process.role not in {"learner", "rollout"}:
            return self._failed(Failed(name, "it ended while it was still needed"), now_s)
        process.phase = Phase.ENDED
        self.figures[name] = dict(figures)
        if self._ending.outcome is None and (process.role == "rollout" or process.leaves_until_s is not None):
            return [Kill(name)]  # it left, for a smaller fleet or by a signal: Ray may give its place, and its number, to others
        if self._ending.outcome is None and process.role == "learner" and not self._processes.living("learner"):
            self._settle(State.COMPLETED, "the learner has taken its last step")
        return []

    def _failed_while_ending(self, failed: Failed) -> list[Action]:
        process = self._processes[failed.id]
        was_stopping = process.phase is Phase.STOPPING
        process.phase = Phase.FAILED
        if process.role != "learner" or self._ending.outcome is State.FAILED:
            self.notes.append(f"{failed.id} while stopping: {failed.reason}")
            return []
        self._settle(State.FAILED, f"{failed.id}{' while stopping' if was_stopping else ''}: {failed.reason}", user_error=failed.user_error)
        return [self._ending.kill(name) for name in self._processes.living("learner")]

    def _stop_requested(self, reason: str, hurried_since_s: float | None) -> list[Action]:
        if self._ending.begun:
            self.notes.append(f"at once: {reason}")
            return [self._ending.kill(name) for name, process in self._processes.items() if process.alive]
        self._ending.settle_stop(reason, hurried_since_s)
        self.state = State.STOPPING
        return []

    def _tick(self, now_s: float) -> list[Action]:
        if self._lonely_since_s is not None and now_s - self._lonely_since_s > LONELY_LIMIT_S:
            self._settle(State.FAILED, "every rollout actor has ended, and the learner has not")
        if late := self._ending.late(now_s):
            self.notes.extend(f"{name} did not stop in time and was killed" for name in late)
            return [self._ending.kill(name) for name in late]
        if self._ending.outcome is None and (slow := self._sizing.overdue(now_s)):
            return slow
        due = self._processes.due(now_s)
        for name in due:
            self._processes[name].place()
        return [Place(name) for name in due]

    def _settle(self, outcome: State, reason: str, *, user_error: bool = False) -> None:
        self._ending.settle(outcome, reason, user_error=user_error)
        self.state = State.STOPPING
