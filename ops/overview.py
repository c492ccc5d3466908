"""What the supervisor knows of its run, put together for `rba status` and Prometheus."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from configs.schema import RunConfig
from ops import topology
from ops.hands import Hands
from ops.hangs import Seen
from ops.orders import Phase, State
from ops.pace import Pace, Total
from ops.recent import Measured, Recent
from ops.rundir import RunDir
from ops.status import ENDED, assemble, figures_of
from ops.supervision import Supervision
from ops.trends import Trends
from ops.views import ProcessView, of_actors
from protocol import logs
from protocol.metrics import Metrics
from protocol.role import RoleDescription

RUN_PHASES = ("starting", "training", "evaluating", "stopping")
"""As `rba_run_phase` tells them."""
ANSWERING = {Phase.RUNNING, Phase.STOPPING}
"""Phases in which a process has endpoints."""


class Overview:
    """The run from outside. `status` may be called from any thread; before `watch` there are no processes yet."""

    def __init__(self, run: RunDir, config: RunConfig, metrics: Metrics, started_s: float) -> None:
        self.control_url = ""
        self._run, self._config, self._metrics, self._started_s = run, config, metrics, started_s
        self._watched: tuple[Supervision, Hands] | None = None
        self._counted: Counter[tuple[str, str]] = Counter()
        self._pace, self._recent, self._trends = Pace(), Recent(), Trends()
        self._measured, self._tokens = Measured(), Total()
        self._step = 0
        """As the learner has told last."""
        self._turned_s = math.inf
        """When the main loop last turned; not yet, at first."""
        self._over = False
        self._asking_ray = threading.Lock()
        self._ray_exporters: list[str] = []

    def watch(self, supervision: Supervision, hands: Hands) -> None:
        """The processes exist."""
        self._watched = supervision, hands

    def over(self) -> None:
        """The main loop has ended, be it by an exception; what is left is to clean up, where nobody looks after processes."""
        self._over = True
        for role in topology.FACTORIES:
            self._metrics.set("rba_quarantined", 0, role=role)

    @property
    def statuses(self) -> Mapping[str, dict[str, Any]]:
        """What each process said last."""
        return self._watched[1].fleet.statuses if self._watched else {}

    def status(self) -> dict[str, Any]:
        """The run's status, as the control server serves it."""
        state = self._watched[0].state if self._watched else State.STARTING
        return assemble(
            run=self._run.path.name,
            run_id=self._run.run_id,
            state=State.STOPPING if self._over or state in ENDED else state,  # over is over when the summary is there
            reason=self._watched[0].reason if self._watched else "",
            elapsed_s=time.monotonic() - self._started_s,
            steps=self._config.learner.steps,
            control=self.control_url,
            processes=self._views(),
            pace=self._pace.figures(self._config.learner.steps),
            wanted=self._wanted(),
            measured=self._measured,
            trends=self._trends.points(),
            step=self._step,
            unattended_s=0.0 if self._over else max(0.0, time.monotonic() - self._turned_s),
        )

    def ray_exporters(self) -> list[str]:
        """Where Ray's agents serve their metrics. A Ray that does not answer keeps one thread waiting; the others get the last answer."""
        if self._watched is not None and self._asking_ray.acquire(blocking=False):
            try:
                self._ray_exporters = self._watched[1].fleet.exporters()
            except Exception as error:  # noqa: BLE001 - a Ray that ends; the run's own targets are told all the same
                logs.get_logger("supervisor").warning("Ray does not tell its exporters", error=f"{type(error).__name__}: {error}")
            finally:
                self._asking_ray.release()
        return self._ray_exporters

    @property
    def running_actors(self) -> int:
        """Rollout actors that run, spares not counted."""
        return sum((view.role, view.phase, view.spare) == ("rollout", Phase.RUNNING, False) for view in self._views())

    def measure(self, now_s: float) -> None:
        """How fast the run goes, what its processes do, and how its figures change."""
        statuses = self.statuses
        learner = statuses.get("learner-0", {})
        said = {name: int(each.get("generated_tokens", 0)) for name, each in statuses.items() if name.startswith("rollout-")}
        tokens = self._tokens.saw(said)
        groups, pairs = learner.get("ledger", {}).get("trained", 0), learner.get("pairs", {}).get("trained", 0)
        if "ledger" in learner:  # one that is started again tells the totals of its earlier lives, but not at once
            self._step = int(learner.get("step", 0))
            self._pace.saw(now_s, step=learner.get("step", 0), groups=groups, pairs=pairs, tokens=tokens)
        views = self._views()
        answered_s = self._watched[1].fleet.answered_at if self._watched else {}
        for view in views:
            if view.id in answered_s:
                self._recent.saw(view.id, view.role, answered_s[view.id], view.status)
        self._measured = self._recent.measured(now_s, {view.id for view in views if view.phase in ANSWERING})
        pace = self._pace.figures(self._config.learner.steps)
        self._trends.saw(now_s, {**figures_of(learner), **pace, **of_actors(views)})

    def seen(self) -> dict[str, Seen]:
        """The processes as the watch for hangs wants them."""
        if self._watched is None:
            return {}
        supervision, hands = self._watched
        phases, fleet = supervision.phases, hands.fleet
        return {
            spec.id: Seen(
                spec.role,
                phases[spec.id],
                fleet.places.get(spec.id, ("", None))[1],
                fleet.answered_at.get(spec.id),
                fleet.statuses.get(spec.id, {}),
            )
            for spec in hands.wiring.specs
            if spec.id in phases  # a fetcher may be wired before the supervision hears of its machine
        }

    def count(self) -> None:
        """Export how the processes are, and that the main loop turns."""
        self._turned_s = time.monotonic()
        self._metrics.succeeded("rba_supervisor_last_success_timestamp_seconds")
        views = self._views()
        for role in topology.FACTORIES:
            ours = [view for view in views if view.role == role]
            self._metrics.set("rba_processes", sum(view.phase in ANSWERING for view in ours), role=role)
            self._metrics.set("rba_quarantined", self._watched[0].vacant(role) if self._watched else 0, role=role)
        state = self._watched[0].state if self._watched else State.STARTING
        phase = run_phase(state, str(self.statuses.get("learner-0", {}).get("state", "")))
        for each in RUN_PHASES:
            self._metrics.set("rba_run_phase", each == phase, phase=each)
        if self._watched:
            self._count_up("rba_restarts_total", self._watched[0].restarted)
            self._count_up("rba_hangs_total", self._watched[0].hung)
            self._metrics.set("rba_actors_wanted", self._watched[0].wanted["rollout"])
            self._metrics.set("rba_rewards_wanted", self._watched[0].wanted["reward"])
            self._metrics.set("rba_spare_actors", sum(view.spare and view.phase is Phase.RUNNING for view in views))
            for stage, share in self._measured.busy.items():
                self._metrics.set("rba_stage_busy_ratio", share, stage=stage)

    def _wanted(self) -> dict[str, int]:
        if self._watched is None:
            return {"rollout": self._config.rollout.actors, "reward": 0, "spare": self._config.fleet.spare_actors}
        return self._watched[0].wanted

    def _count_up(self, metric: str, counts: Mapping[str, int]) -> None:
        for role in topology.FACTORIES:
            count = sum(number for name, number in counts.items() if name.rpartition("-")[0] == role)
            self._metrics.inc(metric, count - self._counted[metric, role], role=role)
            self._counted[metric, role] = count

    def _views(self) -> list[ProcessView]:
        if self._watched is None:
            return []
        supervision, hands = self._watched
        fleet, phases, spares, now_s = hands.fleet, supervision.phases, set(supervision.spares), time.monotonic()
        return [
            ProcessView(
                id=spec.id,
                role=spec.role,
                phase=phases[spec.id],
                host=fleet.places.get(spec.id, (None, None))[0],
                pid=fleet.places.get(spec.id, (None, None))[1],
                description=_reached(fleet.descriptions.get(spec.id), fleet.places.get(spec.id)) if phases[spec.id] in ANSWERING else None,
                status=fleet.statuses.get(spec.id, {}),
                last_heartbeat_s=now_s - fleet.answered_at[spec.id] if spec.id in fleet.answered_at else None,
                spare=spec.id in spares,
                restarts=supervision.restarted[spec.id],
            )
            for spec in hands.wiring.specs
            if spec.id in phases
        ]


def _reached(description: RoleDescription | None, place: tuple[str, int] | None) -> RoleDescription | None:
    """With the addresses by which other machines, and so Prometheus, reach it."""
    if description is None or place is None:
        return description
    endpoints = {name: topology.reachable(url, place[0]) for name, url in description["endpoints"].items()}
    return {**description, "endpoints": endpoints, "metrics_url": topology.reachable(description["metrics_url"], place[0])}


def run_phase(state: State, said: str) -> str:
    """One of `RUN_PHASES`. While the run goes on it is in that of its learner, which has `said` so last."""
    if state is not State.RUNNING:
        return "starting" if state is State.STARTING else "stopping"
    first = said.partition(" ")[0]
    if first in {"training", "evaluating"}:
        return first
    return "stopping" if first in {"copying", "completed", "stopped"} else "starting"
