"""What every process of a run offers to the one that started it."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict, runtime_checkable


class RoleDescription(TypedDict):
    """Where a role can be found."""

    role: str
    """learner | rollout | reward | weight_store | fetcher"""
    id: str
    """Unique within the run: the role and a number."""
    pid: int
    host: str
    endpoints: dict[str, str]
    """Sockets by name, such as ``{"pairs": "tcp://127.0.0.1:5555"}``."""
    metrics_url: str
    """Its Prometheus endpoint."""


class Role(Protocol):
    """One process of a run. `describe` holds once the constructor has returned; the other methods are thread-safe."""

    def describe(self) -> RoleDescription:
        """Where it can be found."""
        ...

    def run(self) -> dict[str, Any]:
        """Work until done or stopped, and return the role's closing figures. Errors propagate."""
        ...

    def status(self) -> dict[str, Any]:
        """Current figures, cheap enough to be asked every second.

        ``quiet_s`` tells for how long work that there is to do has not moved on; who waits for work is not quiet. A ``state`` that begins
        with "starting" says that work has not begun.
        """
        ...

    def stop(self, reason: str) -> None:
        """Ask `run` to finish what it must and return."""
        ...


class Adjustable(Role, Protocol):
    """A role with settings that may change while it runs; the constructor takes them too."""

    def adjust(self, **settings: Any) -> None:
        """All of them, as they are from now on. Thread-safe."""
        ...


@runtime_checkable
class Leaver(Role, Protocol):
    """A role that can leave while the others go on."""

    def drain(self, reason: str) -> None:
        """Ask `run` to take no new work, to finish what is under way within `fleet.drain_s`, and to return. `stop` ends it at once."""
        ...
