"""The supervision's table of processes: what each is, and where it stands."""

from __future__ import annotations

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
        self.phase, self.attempt, self.gone = Phase.PLACING, self.attempt + 1, False


class Processes(dict[str, Process]):
    """All processes of a run by id."""

    @classmethod
    def of(cls, described: Mapping[str, tuple[str, Iterable[str]]]) -> Processes:
        """From the role of each, and the ids that each needs before it can be built."""
        return cls({name: Process(role, frozenset(needs)) for name, (role, needs) in described.items()})

    def role(self, *roles: str) -> Iterator[tuple[str, Process]]:
        """Those of some roles."""
        return ((name, process) for name, process in self.items() if process.role in roles)

    def living(self, *roles: str) -> list[str]:
        """Ids of those of some roles that are alive."""
        return [name for name, process in self.role(*roles) if process.alive]

    def any_present(self, role: str) -> bool:
        """True when one of the role runs, or is going to."""
        return any(process.present for _, process in self.role(role))

    def buildable(self) -> list[str]:
        """Those that wait and whose needs are met: a process that was built once can be found, one that is retired is done without."""
        met = {name for name, process in self.items() if process.built or process.phase in RETIRED}
        return [name for name, process in self.items() if process.phase is Phase.WAITING and process.needs <= met]

    def due(self, now_s: float) -> list[str]:
        """Those whose pause is over and of which nothing is left. The learner's ranks come back together."""
        due = [name for name, each in self.items() if each.phase is Phase.RESTARTING and each.gone and now_s >= each.due_s]
        ranks = {name for name, _ in self.role("learner")}
        return due if ranks <= set(due) else [name for name in due if name not in ranks]
