"""A real Prometheus that watches a drill, and the part of a supervisor that it needs, for a drill has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from ops.control import ControlServer
from ops.monitoring.limits import Limits
from protocol.metrics import Metrics
from tests.faults.drill import Drill
from tests.prometheus import Prometheus

RUN = "drill"
SHORT = Limits(gap_s=2, window_s=6, hold_s=2, actors_s=2, stalled_s=4, unacked_s=3, behind_s=4)
"""Times of the alerts; a drill's steps and results come many times a second."""


class Watched:
    """Follows the drill as it is looked at."""

    def __init__(self, drill: Drill, folder: Path, actors: int = 2) -> None:
        self._drill, self._actors = drill, actors
        self._metrics = Metrics("supervisor", "supervisor-0")
        self._status: dict[str, Any] = {"run": RUN, "processes": [], "endpoints": {"control": ""}}
        self._control = ControlServer(status=lambda: self._status, stop=print, scale=print, metrics=self._metrics.render)
        self._look()
        self.prometheus = Prometheus(folder, [int(self._control.url.rpartition(":")[2])], SHORT)

    def _look(self) -> None:
        """What a supervisor knows: a process that is gone is no target any more."""
        ready = {row["process"]: row for row in self._drill.rows("ready") if row["pid"] == self._drill.pids[row["process"]]}
        living = {name: row["metrics_url"] for name, row in ready.items() if self._drill.alive(name)}
        roles = {name: name.rpartition("-")[0] for name in living}
        processes = [{"id": name, "role": roles[name], "metrics_url": url} for name, url in living.items()]
        self._status = {"run": RUN, "processes": processes, "endpoints": {"control": self._control.url}}
        for role in ("rollout", "learner"):
            self._metrics.set("rba_processes", sum(each == role for each in roles.values()), role=role)
        self._metrics.set("rba_actors_wanted", self._actors)
        self._metrics.set("rba_spare_actors", 0)
        self._metrics.set("rba_run_phase", 1, phase="training")

    def firing(self) -> set[str]:
        """Alerts that fire now."""
        self._look()
        return self.prometheus.firing()

    def until_it_is_watched(self) -> None:
        """Every process answers, and steps are seen."""

        def seen() -> bool:
            self._look()
            health = self.prometheus.targets()
            steps = self.prometheus.value("increase(rba_learner_steps_total[4s])")
            return len(health) == len(self._drill.pids) + 1 and set(health.values()) == {"up"} and bool(steps)

        self.prometheus.until(seen, "all processes are scraped")

    def until_fires(self, *alerts: str) -> set[str]:
        """What fires once all of these do."""
        return set(self.prometheus.until(lambda: (found := self.firing()) >= set(alerts) and found, f"{alerts}", 30.0))

    def until_quiet(self) -> None:
        """Nothing fires any more."""
        self.prometheus.until(lambda: not self.firing(), "the end of the alerts", 30.0)

    def close(self) -> None:
        self.prometheus.close()
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
