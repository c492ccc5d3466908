"""How many rollout actors, spares and reward servers a run has, and which spare stands in for which actor. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from configs.machines import FleetSection
from ops.ending import FAREWELL_S
from ops.orders import Action, Drain, Phase, Place
from ops.processes import Processes

SCALABLE = ("rollout", "reward")
"""Roles of which there may be more or fewer while the run goes on."""
CALLED = {"rollout": "rollout actors", "reward": "reward servers"}
AWAY = {Phase.PLACING, Phase.WAITING, Phase.BUILDING, Phase.RESTARTING}
"""Phases of an actor that does no work yet, or none any more."""


class Sizing:
    """Part of the supervision, with its processes and its notes. `kill` ends a process that does not come back."""

    def __init__(self, processes: Processes, section: FleetSection, notes: list[str], kill: Callable[[str], Action]) -> None:
        self._processes, self._notes, self._kill = processes, notes, kill
        self._drain_s = section.drain_s + FAREWELL_S
        self.wanted = {role: len(processes.members(role)) for role in SCALABLE}
        """How many of each role there are to be, spares not counted."""
        self.wanted_spares = section.spare_actors
        self._stocked = False
        """True once the spares that are wanted were asked for."""
        self._vacant = 0
        """Places of actors that are quarantined, and that no spare has taken."""

    def scale(self, role: str, wanted: int | None, now_s: float) -> list[Action]:
        """More of a role as Ray finds room for them; fewer by those that do least, which finish or give back what they work on."""
        if wanted is None:
            return []
        self.wanted[role], self._stocked, self._vacant = wanted, False, 0
        surplus = len(self._processes.members(role)) - wanted
        self._notes.append(f"{CALLED[role]} wanted: {wanted} ({max(0, -surplus)} join, {max(0, surplus)} leave)")
        if surplus <= 0:
            return [Place(self._processes.add(role)) for _ in range(-surplus)]
        return [action for name in self._processes.dispensable(role)[:surplus] for action in self._leave(name, now_s)]

    def vacate(self, name: str) -> None:
        """It is quarantined, and its work is left."""
        self._vacant += self._processes[name].role == "rollout" and not self._processes[name].spare

    def relieve(self) -> list[Action]:
        """Have as many spares as are wanted join, and let those that run do the work of actors that do not."""
        processes, actions = self._processes, list[Action]()
        if not self._stocked:
            self._stocked = True
            actions = [Place(processes.add("rollout", spare=True)) for _ in range(self.wanted_spares - len(processes.spares()))]
        ready = [name for name in processes.spares() if processes[name].phase is Phase.RUNNING]
        away = [name for name in processes.members("rollout") if processes[name].phase in AWAY]
        for spare, actor in zip(ready, away, strict=False):
            processes[spare].spare, processes[actor].spare = False, True
            self._notes.append(f"{spare}, a spare, takes the place of {actor}")
        for spare in ready[len(away) :][: self._vacant]:
            processes[spare].spare = False
            self._vacant -= 1
            self._notes.append(f"{spare}, a spare, takes the place of one that does not come back")
        return actions

    def overdue(self, now_s: float) -> list[Action]:
        """End those that were to leave by now."""
        living = self._processes.living(*SCALABLE)
        slow = [name for name in living if now_s >= (self._processes[name].leaves_until_s or math.inf)]
        self._notes.extend(f"{name} did not leave within {self._drain_s:g} s and was killed" for name in slow)
        return [self._kill(name) for name in slow]

    def _leave(self, name: str, now_s: float) -> list[Action]:
        process = self._processes[name]
        match process.phase:
            case Phase.RESTARTING:
                process.phase = Phase.ENDED
                return []
            case Phase.RUNNING:
                process.phase, process.leaves_until_s = Phase.STOPPING, now_s + self._drain_s
                return [Drain(name, "the fleet is made smaller")]
            case _:
                return [self._kill(name)]
