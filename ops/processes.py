"""The supervision's table of processes: what each is, and where it stands."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ops.orders import Phase

ALIVE = {Phase.PLACING, Phase.WAITING, Phase.BUILDING, Phase.RUNNING, Phase.STOPPING}
RETIRED = {Phase.ENDED, Phase.FAILED, Phase.QUARANTINED}


@dataclass
class Process:
    """One process, through all its starts."""

    role: str
    needs: frozenset[str]
    phase: Phase = Phase.WAITING
    attempt: int = 0
    """How often it was started before."""
    built: bool = False
    """True once its role was built, now or in an earlier attempt: others know where to find it."""
    gone: bool = False
    """True when nothing is left of its last attempt."""
    due_s: float = 0.0
    """When it may come back."""
    added: bool = False
    """True when it joined while the run was going on."""
    leaves_until_s: float | None = None
    """By when it has to be away, for one that leaves a fleet that is made smaller."""
    spare: bool = False
    """True for a rollout actor that takes over when another one fails, and does nothing until then."""

    @property
    def alive(self) -> bool:
        """True while something of it may run."""
        return self.phase in ALIVE

    @property
    def present(self) -> bool:
        """True while it runs, or is going to."""
        return self.alive or self.phase is Phase.RESTARTING

    def come_back(self, due_s: float) -> None:
        """It is to be started again."""
        self.phase, self.due_s, self.gone = Phase.RESTARTING, due_s, False

    def place(self) -> None:
        """A new attempt begins."""
        self.phase, self.attempt, self.gone, self.leaves_until_s = Phase.PLACING, self.attempt + 1, False, None


class Processes(dict[str, Process]):
    """All processes of a run by id."""

    @classmethod
    def of(cls, described: Mapping[str, tuple[str, Iterable[str]]]) -> Processes:
        """From the role of each, and the ids that each needs before it can be built."""
        return cls({name: Process(role, frozenset(needs)) for name, (role, needs) in described.items()})

    def role(self, *roles: str) -> Iterator[tuple[str, Process]]:
        """Those of some roles."""
        return ((name, process) for name, process in list(self.items()) if process.role in roles)  # control's threads ask too

    def living(self, *roles: str) -> list[str]:
        """Ids of those of some roles that are alive."""
        return [name for name, process in self.role(*roles) if process.alive]

    def any_present(self, role: str) -> bool:
        """True when one of the role runs, or is going to."""
        return any(process.present for _, process in self.role(role))

    def members(self, role: str) -> list[str]:
        """Those of a role that run, or are going to, and neither leave nor are spares."""
        return [name for name, process in self._staying(role) if not process.spare]

    def spares(self) -> list[str]:
        """The rollout actors that are spares, or are going to be."""
        return [name for name, process in self._staying("rollout") if process.spare]

    def _staying(self, role: str) -> Iterator[tuple[str, Process]]:
        return ((name, process) for name, process in self.role(role) if process.present and process.leaves_until_s is None)

    def add(self, role: str, *, spare: bool = False) -> str:
        """One more of a role, to be placed: under a number that is free again, or a new one."""
        needs = next(process.needs for _, process in self.role(role))
        for number in itertools.count():
            name = f"{role}-{number}"
            known = self.get(name)
            if known is None:
                self[name] = Process(role, needs, Phase.PLACING, added=True, spare=spare)
                return name
            if known.phase is Phase.ENDED and known.gone:
                known.place()
                known.spare = spare
                return name
        raise AssertionError("there is always a next number")

    def dispensable(self, role: str) -> list[str]:
        """The members of a role, those first that do least yet, then by falling number."""
        order = [Phase.PLACING, Phase.RESTARTING, Phase.WAITING, Phase.BUILDING, Phase.RUNNING, Phase.STOPPING]
        return sorted(self.members(role), key=lambda name: (order.index(self[name].phase), -int(name.rpartition("-")[2])))

    def buildable(self) -> list[str]:
        """Those that wait and whose needs are met: a process that was built once can be found, one that is retired is done without."""
        met = {name for name, process in self.items() if process.built or process.phase in RETIRED}
        return [name for name, process in self.items() if process.phase is Phase.WAITING and process.needs <= met]

    def due(self, now_s: float) -> list[str]:
        """Those whose pause is over and of which nothing is left. The learner's ranks come back together."""
        due = [name for name, each in self.items() if each.phase is Phase.RESTARTING and each.gone and now_s >= each.due_s]
        ranks = {name for name, _ in self.role("learner")}
        return due if ranks <= set(due) else [name for name in due if name not in ranks]
