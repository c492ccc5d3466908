"""Edge to Ray: one Ray worker (a Ray actor) per process of the run, each holding one role.

Carries out what `ops.supervision` decides and reports back in its events. Only this file and `ops.cluster` import Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops import guard
from ops.orders import Built, Ended, Event, Failed, Gone, Homeless, Placed
from ops.worker import RoleError, RoleWorker
from protocol.errors import RbaError
from protocol.role import RoleDescription

TAIL_LINES = 8
"""Lines of a dead process's output that its failure quotes."""
RESERVE_S = 10.0
"""A group that finds no room within this waits beside the others: machines may have to be started for all of them."""
SWEEP_S = 0.1
"""Between two looks for what is left of a process that was killed here."""
SWEEP_LIMIT_S = 30.0
"""A machine that does not say within this whether anything is left there is lost, and what ran on it too."""


@dataclass(frozen=True)
class WorkerSpec:
    """One process to start."""

    id: str
    role: str
    factory: str
    """The role's class, ``module:Class``."""
    cpus: float
    gpus: float
    env: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    """IP address of the machine that it must run on; None leaves it to Ray."""
    group: str | None = None
    """Workers of one group are placed together."""
    cleans: tuple[Path, ...] = ()
    """Folders on the worker's machine that are removed when its role has ended; the supervisor cleans its own machine alone."""


class Fleet:
    """The run's workers by id. Every call returns at once but `place` and `poll`."""

    def __init__(self, specs: list[WorkerSpec], run_dir: Path) -> None:
        import ray

        self._ray = ray
        self._run_dir = run_dir
        self._specs = {spec.id: spec for spec in specs}
        self._groups = _placement_groups(specs)
        self._own_node = str(ray.util.get_node_ip_address())
        self._ending: set[str] = set()
        """Processes that were killed on this machine, and of which something may be left."""
        self._sweeping: dict[str, float] = {}
        """The same on other machines, and since when they are asked."""
        self._workers = {spec.id: self._create(spec) for spec in specs}
        self._pending: dict[Any, tuple[str, str]] = {}
        """Ray's reference of each call under way: (process, method)."""
        self._asked: dict[str, Any] = {}
        """Status calls under way."""
        self._heard: list[Event] = []
        """What the next `poll` reports besides."""
        self.descriptions: dict[str, RoleDescription] = {}
        self.statuses: dict[str, dict[str, Any]] = {}
        self.answered_at: dict[str, float] = {}
        """When each process last answered (`time.monotonic`)."""
        self.told: dict[str, dict[str, Any]] = {}
        """What each process was built with, or told last, of what may change while it runs."""
        self.places: dict[str, tuple[str, int]] = {}
        """(IP address, pid) of each process; of one that is being placed again, those it had."""

    def place(self, timeout_s: float) -> dict[str, tuple[str, int]]:
        """(IP address, pid) of every worker, once Ray has started them all; raises `RbaError` when it cannot."""
        refs = {worker.where.remote(): name for name, worker in self._workers.items()}
        done, late = self._ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s)
        if late:
            names = ", ".join(sorted(refs[ref] for ref in late))
            raise RbaError(f"Ray found no place for {names} within {timeout_s:.0f} s; the cluster offers {self._ray.cluster_resources()}")
        self.places = {refs[ref]: self._ray.get(ref) for ref in done}
        return self.places

    def place_again(self, spec: WorkerSpec) -> None:
        """Ask Ray for a new process, for as long as it takes; `poll` reports `Placed` or `Failed`."""
        self._specs[spec.id] = spec
        self.answered_at.pop(spec.id, None)
        self.statuses.pop(spec.id, None)
        if spec.node is not None and spec.node not in self.nodes():
            self.descriptions.pop(spec.id, None)
            self.report(Homeless(spec.id, spec.node))
            return
        self._workers[spec.id] = worker = self._create(spec)
        self._pending[worker.where.remote()] = (spec.id, "place")

    def report(self, event: Event) -> None:
        """Have the next `poll` report `event`."""
        self._heard.append(event)

    def warm(self, name: str) -> None:
        """Start the imports of a process that waits for others."""
        self._pending[self._workers[name].warm.remote()] = (name, "warm")

    def build(self, name: str, kwargs: dict[str, Any]) -> None:
        """Construct its role; `poll` reports `Built` or `Failed`."""
        self._pending[self._workers[name].build.remote(kwargs)] = (name, "build")

    def run(self, name: str) -> None:
        """Run its role; `poll` reports `Ended` or `Failed`."""
        self._pending[self._workers[name].run.remote()] = (name, "run")

    def adjust(self, name: str, settings: dict[str, Any]) -> None:
        """Tell its role of settings that have changed; `told` forgets what did not arrive."""
        self.told[name] = settings
        self._pending[self._workers[name].adjust.remote(settings)] = (name, "adjust")

    def drain(self, name: str, reason: str) -> None:
        """Ask its role to leave once what it works on is done; `poll` reports its end."""
        self._pending[self._workers[name].drain.remote(reason)] = (name, "drain")

    def stop(self, name: str, reason: str) -> None:
        """Ask its role to end; `poll` reports it."""
        self._pending[self._workers[name].stop.remote(reason)] = (name, "stop")

    def kill(self, name: str) -> None:
        """End its process, and what it started, at once; `poll` reports `Gone`."""
        self._forget_calls(name)
        self._ray.kill(self._workers[name], no_restart=True)
        mark, place = self._specs[name].env.get(guard.PROCESS, ""), self.places.get(name)
        if not mark or place is None or place[0] == self._own_node:
            guard.end(mark)
            self._ending.add(name)
        else:
            sweep = self._ray.remote(num_cpus=0, resources={f"node:{place[0]}": 0.001})(_sweep)
            self._pending[sweep.remote(mark)] = (name, "sweep")
            self._sweeping[name] = time.monotonic()

    def ask(self) -> None:
        """Ask every built process for its status, unless the last question is still open; `poll` takes the answers."""
        for name in self.descriptions:
            if name not in self._asked and any(call == (name, "run") for call in self._pending.values()):
                ref = self._workers[name].status.remote()
                self._asked[name] = ref
                self._pending[ref] = (name, "status")

    def poll(self, timeout_s: float) -> list[Event]:
        """What has happened, waiting for something to happen at most `timeout_s`."""
        known, self._heard = [*self._heard, *self._swept()], []
        timeout_s = 0.0 if known else min(timeout_s, SWEEP_S) if self._ending else timeout_s
        if not self._pending:
            time.sleep(timeout_s)
            return known
        done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=timeout_s)
        more, _ = self._ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        events: dict[str, Event] = {}
        for ref in dict.fromkeys([*done, *more]):
            name, method = self._pending.pop(ref, ("", ""))
            event = self._take(ref, name, method) if name else None  # a worker's death ends all its calls, the first one tells it
            if event is not None and not isinstance(events.get(name), Failed):
                events[name] = event
        return [*known, *events.values()]

    def _swept(self) -> list[Event]:
        """Those that were killed and of which nothing is left any more."""
        here = [name for name in self._ending if guard.end(self._specs[name].env.get(guard.PROCESS, ""))]
        self._ending -= set(here)
        now_s = time.monotonic()
        machines = self.nodes() if self._sweeping else set()
        late = (name for name, since_s in self._sweeping.items() if now_s - since_s > SWEEP_LIMIT_S)
        lost = {*late, *(name for name in self._sweeping if self.places[name][0] not in machines)}
        for name in lost:
            self._forget_calls(name)
        return [Gone(name) for name in (*here, *lost)]

    def _forget_calls(self, name: str) -> None:
        self._pending = {ref: call for ref, call in self._pending.items() if call[0] != name}
        self._asked.pop(name, None)
        self._sweeping.pop(name, None)

    def _take(self, ref: Any, name: str, method: str) -> Event | None:
        if method == "status":
            self._asked.pop(name, None)
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.ActorUnavailableError as error:
            if method in {"place", "build", "run"}:  # its answer would be lost, and so may its machine be, which Ray finds out later
                self._forget_calls(name)
                return Failed(name, f"it cannot be reached: {error}")
            if method == "adjust":
                self.told.pop(name, None)
            return None  # a hiccup between Ray's processes; if the worker is dead, its `run` says so
        except self._ray.exceptions.RayError as error:
            if method in {"status", "drain", "stop", "adjust"} and isinstance(error, self._ray.exceptions.ActorDiedError):
                return None  # its `run` says so
            if method == "sweep":
                self._sweeping.pop(name, None)
                return Gone(name)  # its machine is lost
            self._forget_calls(name)
            return self._failure(name, error)
        match method:
            case "sweep":
                self._sweeping.pop(name, None)
                return Gone(name)
            case "place":
                self.places[name] = answer
                return Placed(name)
            case "build":
                self.descriptions[name] = answer
                self.answered_at[name] = time.monotonic()
                return Built(name)
            case "run":
                return Ended(name, answer or {})
            case "status":
                self.statuses[name] = answer
                self.answered_at[name] = time.monotonic()
        return None

    def _failure(self, name: str, error: Exception) -> Failed:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RoleError):
            return Failed(name, *cause.args)
        if cause is not None:
            return Failed(name, f"{type(cause).__name__}: {cause}")
        output = self._output(name)
        return Failed(name, f"its process was killed or crashed; its output is in {output}", detail=_tail(output))

    def nodes(self) -> set[str]:
        """IP addresses of the machines that are there."""
        return {str(node["NodeManagerAddress"]) for node in self._ray.nodes() if node["Alive"]}

    def exporters(self) -> list[str]:
        """``address:port`` of the metrics of Ray's own agent on each machine; a Ray without its ``default`` extra has none."""
        nodes = (node for node in self._ray.nodes() if node["Alive"] and node.get("MetricsExportPort", -1) > 0)
        return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]

    def _output(self, name: str) -> Path:
        return self._run_dir / "logs" / f"{name}.out"

    def _create(self, spec: WorkerSpec) -> Any:
        ray = self._ray
        strategy: Any = "DEFAULT"
        if spec.group is not None:
            group, bundle = self._groups[spec.id]
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        on_node = {f"node:{spec.node}": 0.001} if spec.node and spec.group is None else {}
        worker = ray.remote(
            num_cpus=spec.cpus,
            num_gpus=spec.gpus,
            resources=on_node,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"work": 1, "watch": 2},
            scheduling_strategy=strategy,
            runtime_env={"env_vars": {"PYTHONSAFEPATH": "1", **spec.env}},
        )(_grouped(RoleWorker))
        return worker.remote(spec.factory, str(self._output(spec.id)), spec.cleans)


def _sweep(process: str) -> None:
    """On another machine: end what is left there of one process. A raised call ends as one that returned."""
    while not guard.end(process):
        time.sleep(SWEEP_S)


def _grouped(role_worker: type[RoleWorker]) -> type[RoleWorker]:
    """`build` and `run` share one thread; `status` and what ends it have others, so that they are answered meanwhile."""
    import ray

    for method, group in {
        "warm": "work",
        "build": "work",
        "run": "work",
        "where": "watch",
        "status": "watch",
        "drain": "watch",
        "stop": "watch",
        "adjust": "watch",
    }.items():
        setattr(role_worker, method, ray.method(concurrency_group=group)(getattr(role_worker, method)))
    return role_worker


def _placement_groups(specs: list[WorkerSpec]) -> dict[str, tuple[Any, int]]:
    """(placement group, bundle) of each worker that belongs to a group. Groups choose before others, who may run anywhere."""
    import ray

    placed: dict[str, tuple[Any, int]] = {}
    for group in dict.fromkeys(spec.group for spec in specs if spec.group is not None):
        members = [spec for spec in specs if spec.group == group]
        bundles = [
            {"CPU": spec.cpus, **({"GPU": spec.gpus} if spec.gpus else {}), **({f"node:{spec.node}": 0.001} if spec.node else {})}
            for spec in members
        ]
        reserved = ray.util.placement_group(bundles, strategy="PACK")
        reserved.wait(RESERVE_S)
        placed |= {spec.id: (reserved, bundle) for bundle, spec in enumerate(members)}
    return placed


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
