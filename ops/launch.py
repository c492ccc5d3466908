"""The supervisor behind `rba launch`: prepares a run, starts its processes on Ray, watches them, and cleans up behind them.

    preflight ──▶ run folder ──▶ control server ──▶ Ray ──▶ workers ──▶ supervise ──▶ summary, report ──▶ nothing left

What to do when is decided in `ops.supervision` and carried out by `ops.hands`.
"""

from __future__ import annotations

import functools
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from configs import loader
from configs.schema import RunConfig
from ops import guard, plan, ports, preflight, report, rundir, summary, topology
from ops.autoscaling import Autoscaler, Seen
from ops.cluster import Cluster
from ops.control import ControlServer
from ops.hands import Hands
from ops.hangs import HangWatch
from ops.live import Lossy, Progress, evaluation_table
from ops.orders import Action, Finish, Scale, State, StopRequested, Tick
from ops.overview import Overview
from ops.resume import Origin, find_origin
from ops.rundir import RunDir
from ops.signals import Signals
from ops.supervision import Supervision
from ops.tokens import needs_token
from ops.workers import Fleet
from protocol import logs
from protocol.destination import Destination
from protocol.errors import RbaError, UserError
from protocol.metrics import Metrics

LOOP_S = 0.5
"""Longest wait for something to happen; a signal is seen after at most this."""
ASK_EVERY_S = 1.0
SHOW_EVERY_S = 0.25
"""A large fleet has the loop turn far more often than anybody looks."""
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
        known = rundir.provenance(source, list(overrides), config.manifests, config.checkpoints)
        if resume:
            run = rundir.reopen(config, run_dir)
            origin = find_origin(run, config, known)._replace(salvage=salvage)
            tell_origin(origin, console)
            run.summary.unlink(missing_ok=True)
        else:
            run, origin = rundir.create(config, run_dir), Origin()
            refuse_taken_name(run, config)
        record = functools.partial(record_life, run, config, known)
        record(origin)
        supervisor = Supervisor(run, plan.make(config, plan.Machine.here()), signals, console, started_s, origin, record)
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
        Destination(config.learner.checkpoint_copies, "learner.checkpoint_copies").refuse_occupied(run.path.name)
    except UserError:
        run.discard()
        raise


def record_life(run: RunDir, config: RunConfig, known: dict[str, Any], origin: Origin) -> None:
    """``config.yaml`` names the lineage of the run's present life, so that the next one takes a new one."""
    rundir.write_config(run, config, {**known, "lineage": origin.lineage})


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

    def __init__(
        self,
        run: RunDir,
        planned: plan.Plan,
        signals: Signals,
        console: Console,
        started_s: float,
        origin: Origin,
        record: Callable[[Origin], None],
    ) -> None:
        """`record` notes each new life of the learner in the run's folder."""
        self.run = run
        self._origin, self._record = origin, record
        self.plan = planned
        self.config = planned.config
        self.started_s = started_s
        self.supervision = Supervision({})
        logs.configure(run.path, "supervisor-0")
        self._log = logs.get_logger("supervisor")
        self._signals = signals
        self._progress = Progress(console)
        self._metrics = Metrics("supervisor", "supervisor-0")
        self.overview = Overview(run, planned.config, self._metrics, started_s)
        self._control = self._open_control()
        self._autoscaler = Autoscaler(planned.config.fleet, planned.config.learner.batch_groups)
        self._hangs = HangWatch(planned.config.fleet)
        self._told = 0
        self._showed_s = float("-inf")

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
                hands = self._start_workers(cluster)
                self._signals.queue()  # from here on a signal is an event, not an exception
                finish = self.supervise(hands)
        except KeyboardInterrupt as interrupt:
            finish = Finish(State.STOPPED, str(interrupt))
        except RbaError as error:
            finish = Finish(State.FAILED, str(error), isinstance(error, UserError))
        except Exception as error:  # noqa: BLE001 - the run must be summed up and cleaned up; the traceback is kept
            (self.run.logs / "supervisor.err").write_text(traceback.format_exc())
            finish = Finish(State.FAILED, f"the supervisor: {type(error).__name__}: {error}")
        finally:
            self.overview.over()
            if cluster is not None:
                cluster.close(self.run.logs / "ray" if finish.state is State.FAILED else None)
            guard.clean_up(self.run.run_id, folders, SETTLE_S)
            watchdog.dismiss()
            del os.environ[guard.MARKER]
        return finish

    def supervise(self, hands: Hands) -> Finish:
        """The main loop.

        Consumes: what Ray reports of the workers, signals, `rba stop`. Produces: orders to the workers, the status.
        Waits for: the next of these, at most `LOOP_S`. Unblocked by: the end of any process, or the clock.
        """
        asked_at_s, fleet = 0.0, hands.fleet
        actions = self.supervision.start()
        while (finish := hands.act(actions)) is None:
            hands.inform()
            happened = [*self._signals.take(), *hands.hear(LOOP_S), Tick()]
            now_s = time.monotonic()
            actions = [action for event in happened for action in self.supervision.handle(event, now_s)]
            if now_s - asked_at_s >= ASK_EVERY_S:
                asked_at_s = now_s
                fleet.ask()
                self.overview.measure(now_s)
                verdicts = self._hangs.look(now_s, self.overview.seen())
                actions += [action for hung in verdicts for action in self.supervision.handle(hung, now_s)]
                actions += self._autoscale(now_s)
            self._tell()
        return finish

    def _autoscale(self, now_s: float) -> list[Action]:
        seen = Seen.of(self.overview.statuses.get("learner-0", {}), self.supervision.present_actors, self.overview.running_actors)
        actors = self._autoscaler.decide(now_s, seen)
        return self.supervision.handle(Scale(actors), now_s) if actors is not None else []

    def close(self) -> None:
        """Stop answering; ``summary.json`` tells the rest."""
        self._control.close()
        self.run.control.unlink(missing_ok=True)

    # --- the rim --------------------------------------------------------------------------------------------

    def _start_workers(self, cluster: Cluster) -> Hands:
        nodes = cluster.nodes() if self.config.ray.address else [cluster.node_ip]
        mark = {guard.MARKER: self.run.run_id}
        if cluster.folder is not None:
            mark["TMPDIR"] = str(cluster.folder)  # vLLM leaves its sockets behind; this folder goes with the run
        token = topology.reward_token(self.run, self.config, os.environ)
        wiring = topology.lay_out(self.run, self.plan, nodes, ports.free(), mark, self._origin, token)
        optional = () if self.config.needs_rewards else ("reward",)
        self.supervision = Supervision(wiring.needs(), self.config.fleet, optional, random.Random())
        fleet = Fleet(wiring.specs, self.run.path)
        hands = Hands(self.supervision, fleet, wiring, self._new_life)
        self.overview.watch(self.supervision, hands)
        fleet.place(PLACE_LIMIT_S)
        for spec in wiring.specs:
            if spec.role in topology.SLOW_IMPORTS:
                fleet.warm(spec.id)
        return hands

    def _new_life(self, origin: Origin) -> None:
        self._record(origin)
        where = f"from {origin.checkpoint}" if origin.checkpoint else "from the start: there is no whole checkpoint"
        self._note(f"the learner goes on {where}, in lineage {origin.lineage}")

    def _open_control(self) -> ControlServer:
        control = ControlServer(
            status=self.overview.status,
            stop=lambda reason: self._signals.put(StopRequested(reason, hurried=False)),
            scale=self._scale,
            metrics=self._metrics.render,
            beat=lambda: os.utime(self.run.control),
            ray=self.overview.ray_exporters,
            port=self.config.network.control_port,
        )
        self.overview.control_url = control.url
        rundir.write_private_json(
            self.run.control,
            {
                "url": control.url,
                "token": control.token,
                "pid": os.getpid(),
                "run_id": self.run.run_id,
                "host": socket.gethostname(),
            },
        )
        return control

    def _scale(self, wanted: Scale) -> None:
        """From the control server's threads. Raises `UserError` when the run ends, or starts no reward servers."""
        if self.supervision.state not in {State.STARTING, State.RUNNING}:
            raise UserError(f"the run is {self.supervision.state}", where=str(self.run.path), fix="only a run that goes on can be scaled")
        if wanted.rewards is not None and not self.supervision.wanted["reward"]:
            why = f"asks those at {', '.join(self.config.rewards.urls)}" if self.config.rewards.urls else "needs none"
            raise UserError(f"the run starts no reward servers: it {why}", where=str(self.run.path), fix="leave --rewards out")
        self._signals.put(wanted)

    def _tell(self) -> None:
        for note in self.supervision.notes[self._told :]:
            self._note(note)
        self._told = len(self.supervision.notes)
        self._control.raise_if_failed()
        if time.monotonic() - self._showed_s >= SHOW_EVERY_S:
            self._showed_s = time.monotonic()
            self.overview.count()
            self._progress.show(self.overview.status())

    def _note(self, text: str) -> None:
        """On the screen, and in the supervisor's log."""
        self._progress.note(text)
        self._log.warning("note", text=text)


def conclude(run: RunDir, finish: Finish, supervisor: Supervisor, console: Console) -> None:
    """Write ``summary.json`` and the report, and tell how the run ended."""
    wall_s, supervised = time.monotonic() - supervisor.started_s, supervisor.supervision
    content = summary.compose(run, supervisor.config, finish, supervised.figures, supervisor.overview.statuses, wall_s, supervised.fleet)
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
