"""Carries out what the supervision orders: where wiring, workers and checkpoints meet."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from learner.checkpoint import newest
from ops import ports
from ops.orders import Action, Build, Drain, Event, Failed, Finish, Kill, Phase, Place, Placed, Run, Stop
from ops.processes import RETIRED
from ops.resume import Origin
from ops.supervision import Supervision
from ops.topology import Topology
from ops.workers import Fleet

Found = tuple[Path | None, dict[Path, list[str]]]
"""The last whole checkpoint, and the later ones that are not (see `learner.checkpoint.newest`)."""


class Hands:
    """Orders for the workers, with what each needs to know. `on_lineage` hears of each new life of the learner."""

    def __init__(self, supervision: Supervision, fleet: Fleet, wiring: Topology, on_lineage: Callable[[Origin], None]) -> None:
        self.fleet, self.wiring = fleet, wiring
        self._supervision = supervision
        self._on_lineage = on_lineage
        self._learner_attempt = 0
        self._search: Future[Found] | None = None
        """For the checkpoint that the learner goes on from: it reads every byte of one, which may take minutes."""
        self._waiting: dict[str, int] = {}
        """Attempt of each rank that is built once it is found."""

    def act(self, actions: list[Action]) -> Finish | None:
        """Carry the actions out; the `Finish` among them, if any."""
        for action in actions:
            match action:
                case Place(name):
                    self._place(name)
                case Build(name, attempt):
                    self._build(name, attempt)
                case Run(name):
                    self.fleet.run(name)
                case Drain(name, reason):
                    self.fleet.drain(name, reason)
                case Stop(name, reason):
                    self.fleet.stop(name, reason)
                case Kill(name):
                    self._waiting.pop(name, None)
                    self.fleet.kill(name)
                case Finish():
                    return action
        return None

    def inform(self) -> None:
        """Tell the actors that run what has changed for them since they were built, or told."""
        running = {name for name, phase in self._supervision.phases.items() if phase is Phase.RUNNING}
        for name, settings in self._settings().items():
            if name in running and self.fleet.told.get(name) != settings:
                self.fleet.adjust(name, settings)

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Of each rollout actor, what may change while it runs."""
        described = {other: self.fleet.descriptions[other] for other in self._supervision.rewards if other in self.fleet.descriptions}
        urls, spares = self.wiring.reward_urls(described, self.fleet.places), set(self._supervision.spares)
        actors = (spec.id for spec in self.wiring.specs if spec.role == "rollout")
        return {name: {"spare": name in spares, "reward_urls": urls} for name in actors}

    def hear(self, timeout_s: float) -> list[Event]:
        """What the workers report. An actor is said with the fetcher of its machine, which may be one that the run is new to."""
        if self._search is not None and self._search.done():
            self._go_back(*self._search.result())
        return [self._beside(event) if isinstance(event, Placed) else event for event in self.fleet.poll(timeout_s)]

    def _beside(self, event: Placed) -> Placed:
        if self.wiring.spec(event.id).role != "rollout":
            return event
        node = self.fleet.places[event.id][0]
        fetcher = self.wiring.fetcher_on(node)
        if fetcher is None:
            fetcher = f"fetcher-{sum(spec.role == 'fetcher' for spec in self.wiring.specs)}"
            self.wiring = self.wiring.grown(fetcher, node)
        return Placed(event.id, fetcher)

    def _place(self, name: str) -> None:
        """A reward server comes back on its machine, where the actors know it, or anywhere when that is lost; they are told."""
        if name not in self.wiring.names():
            self.wiring = self.wiring.grown(name)
        spec = self.wiring.spec(name)
        known = self.fleet.places.get(name)
        if spec.role == "reward" and known is not None:
            if known[0] in self.fleet.nodes():
                spec = dataclasses.replace(spec, node=known[0])
            else:
                self.fleet.descriptions.pop(name, None)  # its port is free there, and may not be elsewhere
        self.fleet.place_again(spec)

    def _build(self, name: str, attempt: int) -> None:
        if self.wiring.spec(name).role == "learner" and attempt > self._learner_attempt:
            self._waiting[name] = attempt
            self._search = self._search or _in_background(lambda: newest(self.wiring.run.path))
            return
        phases = self._supervision.phases
        described = {other: told for other, told in self.fleet.descriptions.items() if phases[other] not in RETIRED}
        try:
            kwargs = self.wiring.kwargs(name, described, self.fleet.places, attempt)
        except KeyError as missing:
            self.fleet.report(Failed(name, f"{missing.args[0]}, which it needs, is not there any more"))
            return
        if self.wiring.spec(name).role == "rollout":
            self.fleet.told[name] = settings = self._settings()[name]
            kwargs |= settings
        self.fleet.build(name, kwargs)

    def _go_back(self, checkpoint: Path | None, torn: dict[Path, list[str]]) -> None:
        """The learner goes on from the last whole checkpoint, in a new lineage; all ranks from the same one."""
        waiting, self._waiting, self._search = self._waiting, {}, None
        if not waiting:
            return  # it was killed meanwhile
        self._learner_attempt = max(waiting.values())
        origin = Origin(self.wiring.origin.lineage + 1, checkpoint, torn)
        self.wiring = dataclasses.replace(self.wiring, origin=origin, master_port=ports.free())
        self._on_lineage(origin)
        for name, attempt in waiting.items():
            self._build(name, attempt)


def _in_background(work: Callable[[], Found]) -> Future[Found]:
    """A thread that does not hold up the end of the process."""
    future: Future[Found] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever takes the result
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoints", daemon=True).start()
    return future
