"""The supervisor behind `rba launch`: prepares a run, starts its processes on Ray, watches them, and cleans up behind them.

    preflight ──▶ run folder ──▶ control server ──▶ Ray ──▶ workers ──▶ supervise ──▶ summary, report ──▶ nothing left

What to do when is decided in `ops.supervision`; this file carries it out.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from configs import loader
from configs.schema import RunConfig
from learner.destination import Destination
from ops import guard, plan, preflight, report, rundir, summary, topology
from ops.cluster import Cluster
from ops.control import ControlServer
from ops.live import Lossy, Progress, evaluation_table
from ops.pace import Pace
from ops.resume import Origin, find_origin
from ops.rundir import RunDir
from ops.signals import Signals
from ops.status import ENDED, ProcessView, assemble
from ops.supervision import Action, Build, Finish, Kill, Phase, Run, State, Stop, StopRequested, Supervision, Tick
from ops.tokens import needs_token
from ops.topology import Topology
from ops.workers import Fleet
from protocol.errors import RbaError, UserError
from protocol.metrics import Metrics

LOOP_S = 0.5
"""Longest wait for something to happen; a signal is seen after at most this."""
ASK_EVERY_S = 1.0
PLACE_LIMIT_S = 300.0
"""A cluster may have to start machines first."""
SETTLE_S = 2.0
"""What is left of the run's processes this long after Ray's end is killed."""


def launch(
    source: str, overrides: Sequence[str], run_dir: Path | None, console: Console, *, resume: bool = False, salvage: bool = False
) -> int:
    """Carry out a whole run, or the rest of one; the exit code. Raises `UserError` for mistakes found before anything was started."""
    started_s = time.monotonic()
    with Signals() as signals:
        asked = loader.load(source, overrides)
        with console.status("checking", spinner="dots"):
            config = preflight.check(asked, lambda text: console.print(text, style="dim", highlight=False))
        known = rundir.provenance(source, list(overrides), config.manifests)
        if resume:
            run = rundir.reopen(config, run_dir)
            origin = find_origin(run, config, known["data_digests"])._replace(salvage=salvage)
            tell_origin(origin, console)
            run.summary.unlink(missing_ok=True)
        else:
            run, origin = rundir.create(config, run_dir), Origin()
            refuse_taken_name(run, config)
        rundir.write_config(run, config, {**known, "lineage": origin.lineage})
        supervisor = Supervisor(run, plan.make(config, plan.Machine.here()), signals, console, started_s, origin)
        console.print(f"run {run.path}", highlight=False, soft_wrap=True)  # from here on `rba status` answers
        try:
            finish = supervisor.carry_out()
            conclude(run, finish, supervisor, console)
        finally:
            supervisor.close()
    return exit_code(finish)


def refuse_taken_name(run: RunDir, config: RunConfig) -> None:
    """Take the new folder back and raise `UserError` where the copies of its checkpoints would replace those of another run."""
    if config.learner.checkpoint_copies is None:
        return
    try:
        Destination(config.learner.checkpoint_copies).refuse_occupied(run.path.name)
    except UserError:
        run.discard()
        raise


def tell_origin(origin: Origin, console: Console) -> None:
    """Say where the run goes on, and which checkpoints it cannot use."""
    for path, files in origin.torn.items():
        console.print(f"damaged, not used: {path} ({', '.join(files)})", style="yellow", highlight=False, soft_wrap=True)
    where = f"going on from {origin.checkpoint}" if origin.checkpoint else "no whole checkpoint: going on from the start"
    console.print(where, highlight=False, soft_wrap=True)


def exit_code(finish: Finish) -> int:
    """0 for a run that completed or was stopped, 2 for the user's mistake, 1 for any other failure."""
    return (2 if finish.user_error else 1) if finish.state is State.FAILED else 0


class Supervisor:
    """One run from its first process to its last."""

    def __init__(self, run: RunDir, planned: plan.Plan, signals: Signals, console: Console, started_s: float, origin: Origin) -> None:
        self.run = run
        self._origin = origin
        self.plan = planned
        self.config = planned.config
        self.started_s = started_s
        self.supervision = Supervision({})
        self.fleet: Fleet | None = None
        self._signals = signals
        self._progress = Progress(console)
        self._topology: Topology | None = None
        self._metrics = Metrics("supervisor", "supervisor-0")
        self._control = self._open_control()
        self._told = 0
        self._pace = Pace()

    def carry_out(self) -> Finish:
        """Start everything, supervise it, and leave nothing behind, whatever happens."""
        ray_folder = Path(f"/tmp/rba-{self.run.run_id[-6:]}-{os.getpid()}")  # noqa: S108 - short: Ray's sockets lie deep below it
        folders = [ray_folder, *(self.run.shared_memory(what) for what in ("published", "fetched"))]
        watchdog = guard.Guard(self.run.run_id, folders)
        os.environ[guard.MARKER] = self.run.run_id
        cluster: Cluster | None = None
        finish = Finish(State.FAILED, "the supervisor failed")
        try:
            with self._progress:
                self._progress.note("starting Ray")
                cluster = Cluster(self.config.ray.address, self.plan.ray_cpus, ray_folder, token_needed=needs_token(self.config))
                self._progress.note(f"Ray runs after {cluster.start_seconds:.1f} s; starting the processes")
                fleet, wiring = self._start_workers(cluster)
                self._signals.queue()  # from here on a signal is an event, not an exception
                finish = self.supervise(fleet, wiring)
        except KeyboardInterrupt as interrupt:
            finish = Finish(State.STOPPED, str(interrupt))
        except RbaError as error:
            finish = Finish(State.FAILED, str(error), isinstance(error, UserError))
        except Exception as error:  # noqa: BLE001 - the run must be summed up and cleaned up; the traceback is kept
            (self.run.logs / "supervisor.err").write_text(traceback.format_exc())
            finish = Finish(State.FAILED, f"the supervisor: {type(error).__name__}: {error}")
        finally:
            if cluster is not None:
                cluster.close(self.run.logs / "ray" if finish.state is State.FAILED else None)
            guard.clean_up(self.run.run_id, folders, SETTLE_S)
            watchdog.dismiss()
            del os.environ[guard.MARKER]
        return finish

    def supervise(self, fleet: Fleet, wiring: Topology) -> Finish:
        """The main loop.

        Consumes: what Ray reports of the workers, signals, `rba stop`. Produces: orders to the workers, the status.
        Waits for: the next of these, at most `LOOP_S`. Unblocked by: the end of any process, or the clock.
        """
        asked_at_s = 0.0
        actions = self.supervision.start()
        while (finish := act(actions, fleet, wiring)) is None:
            happened = [*self._signals.take(), *fleet.poll(LOOP_S), Tick()]
            now_s = time.monotonic()
            actions = [action for event in happened for action in self.supervision.handle(event, now_s)]
            if now_s - asked_at_s >= ASK_EVERY_S:
                asked_at_s = now_s
                fleet.ask()
                self._measure(fleet, now_s)
            self._tell()
        return finish

    def status(self) -> dict[str, Any]:
        """The run's status, as the control server serves it."""
        return assemble(
            run=self.run.path.name,
            run_id=self.run.run_id,
            state=State.STOPPING if self.supervision.state in ENDED else self.supervision.state,  # over is over when the summary is there
            reason=self.supervision.reason,
            elapsed_s=time.monotonic() - self.started_s,
            steps=self.config.learner.steps,
            control=self._control.url,
            processes=self._views(),
            pace=self._pace.figures(self.config.learner.steps),
        )

    def close(self) -> None:
        """Stop answering; ``summary.json`` tells the rest."""
        self._control.close()
        self.run.control.unlink(missing_ok=True)

    # --- the rim --------------------------------------------------------------------------------------------

    def _start_workers(self, cluster: Cluster) -> tuple[Fleet, Topology]:
        nodes = cluster.nodes() if self.config.ray.address else [cluster.node_ip]
        mark = {guard.MARKER: self.run.run_id}
        if cluster.folder is not None:
            mark["TMPDIR"] = str(cluster.folder)  # vLLM leaves its sockets behind; this folder goes with the run
        wiring = topology.lay_out(self.run, self.plan, nodes, _free_port(), mark, self._origin)
        self.supervision = Supervision(wiring.needs())
        fleet = Fleet(wiring.specs, self.run.path)
        self._topology, self.fleet = wiring, fleet
        fleet.place(PLACE_LIMIT_S)
        for spec in wiring.specs:
            if spec.role in topology.SLOW_IMPORTS:
                fleet.warm(spec.id)
        return fleet, wiring

    def _open_control(self) -> ControlServer:
        control = ControlServer(
            status=self.status,
            stop=lambda reason: self._signals.put(StopRequested(reason, hurried=False)),
            metrics=self._metrics.render,
            port=self.config.network.control_port,
        )
        rundir.write_private_json(
            self.run.control, {"url": control.url, "token": control.token, "pid": os.getpid(), "run_id": self.run.run_id}
        )
        return control

    def _views(self) -> list[ProcessView]:
        fleet, phases = self.fleet, self.supervision.phases
        if fleet is None or self._topology is None:
            return []
        now_s = time.monotonic()
        return [
            ProcessView(
                id=spec.id,
                role=spec.role,
                phase=phases[spec.id],
                host=fleet.places.get(spec.id, (None, None))[0],
                pid=fleet.places.get(spec.id, (None, None))[1],
                description=fleet.descriptions.get(spec.id),
                status=fleet.statuses.get(spec.id, {}),
                last_heartbeat_s=now_s - fleet.answered_at[spec.id] if spec.id in fleet.answered_at else None,
            )
            for spec in self._topology.specs
        ]

    def _measure(self, fleet: Fleet, now_s: float) -> None:
        learner = fleet.statuses.get("learner-0", {})
        tokens = sum(int(each.get("generated_tokens", 0)) for name, each in fleet.statuses.items() if name.startswith("rollout-"))
        groups, pairs = learner.get("ledger", {}).get("trained", 0), learner.get("pairs", {}).get("trained", 0)
        self._pace.saw(now_s, step=learner.get("step", 0), groups=groups, pairs=pairs, tokens=tokens)

    def _tell(self) -> None:
        for note in self.supervision.notes[self._told :]:
            self._progress.note(note)
        self._told = len(self.supervision.notes)
        self._control.raise_if_failed()
        self._count_processes()
        self._progress.show(self.status())

    def _count_processes(self) -> None:
        running: dict[str, int] = dict.fromkeys(topology.FACTORIES, 0)
        for view in self._views():
            running[view.role] += view.phase in {Phase.RUNNING, Phase.STOPPING}
        for role, count in running.items():
            self._metrics.set("rba_processes", count, role=role)


def act(actions: list[Action], fleet: Fleet, wiring: Topology) -> Finish | None:
    """Carry the actions out; the `Finish` among them, if any."""
    for action in actions:
        match action:
            case Build(name):
                fleet.build(name, wiring.kwargs(name, fleet.descriptions, fleet.places))
            case Run(name):
                fleet.run(name)
            case Stop(name, reason):
                fleet.stop(name, reason)
            case Kill(name):
                fleet.kill(name)
            case Finish():
                return action
    return None


def conclude(run: RunDir, finish: Finish, supervisor: Supervisor, console: Console) -> None:
    """Write ``summary.json`` and the report, and tell how the run ended."""
    statuses = supervisor.fleet.statuses if supervisor.fleet else {}
    wall_s = time.monotonic() - supervisor.started_s
    content = summary.compose(run, supervisor.config, finish, supervisor.supervision.figures, statuses, wall_s)
    summary.write(run, content)
    if run.events.is_file():
        report.write(run)
    table = evaluation_table(content["evaluation"])
    if table is not None:
        console.print(table)
    if finish.state is State.FAILED:
        error = Console(file=cast(IO[str], Lossy(sys.stderr)))
        error.print(f"the run failed: {finish.reason}", style="red", highlight=False, markup=False, soft_wrap=True)
        error.print(f"logs: {run.logs}", highlight=False, soft_wrap=True)
    else:
        console.print(f"{finish.state} after {content['learner_steps']} steps: {content['reason']}", highlight=False, soft_wrap=True)
    if run.report.is_file():
        console.print(f"report: {run.report}", highlight=False, soft_wrap=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
