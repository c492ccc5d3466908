"""A whole run: its processes, its network and its disk. What may happen to them is in `tests.simulation.rules`."""

from __future__ import annotations

import random

from learner.journal.journal import NotDurableError
from protocol.dialogue import actor_events as acting
from protocol.messages import PolicyVersion
from tests.learner.faulty_disk import Crash
from tests.simulation.actor import Process
from tests.simulation.learner import Checkpoint, Disk, LastCheckpointError, Learner
from tests.simulation.network import Network
from tests.simulation.plan import HEARTBEAT_S, Plan
from tests.simulation.watch import Watch

MOST_ROUNDS = 100
"""On a good network, until all that was finished is acknowledged; and then until everybody who works has ended the run."""


class World:
    """See the module's text."""

    def __init__(self, plan: Plan, *, coded: bool = False) -> None:
        self.plan, self.config, self.now_s = plan, plan.config, 0.0
        self.disk, self.checkpoints = Disk(), dict[int, Checkpoint]()
        self.network = Network(coded=coded)
        self.processes: dict[bytes, Process] = {}
        """Those that live, ghosts among them."""
        self.actors: dict[str, Process] = {}
        """Those that the supervisor knows, by actor."""
        self.watch = Watch(self)
        self.lineage, self.crashes, self.salts = -1, 0, 0
        self.learner: Learner | None = None
        self.ended = False
        self.journal_from = 0
        """The first step that the journal goes on from."""
        self.incarnations, self.from_checkpoint = 0, 0
        self._stood: tuple[int, ...] = ()
        for number in range(plan.actors):
            self._start(f"a{number}")
        self._boot()

    # --- what the processes ask of it ---

    def clock(self) -> float:
        return self.now_s

    def salt(self) -> int:
        self.salts += 1
        return self.salts * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF

    @property
    def served(self) -> PolicyVersion | None:
        """What actors can fetch."""
        return self.learner.published if self.learner is not None else None

    def is_whole(self, step: int) -> bool:
        """Of a checkpoint."""
        return step in self.checkpoints and self.checkpoints[step].whole

    # --- rules: the network ---

    def deliver_all(self, n: int) -> bool:
        """Everything that is under way arrives."""
        network, some = self.network, False
        for _ in range(8):
            if not (network.down or (network.up and self.learner is not None)):
                break
            some = True
            if self.learner is not None:
                up, network.up = network.up, []
                self.learner.link.turn(*up)
            down, network.down = network.down, []
            for peer, message in down:
                process = self.processes.get(peer)
                if process is not None:
                    if process.paused:
                        network.down.append((peer, message))
                    else:
                        process.act(acting.LearnerSaid(message, self.now_s))
        return some

    def _tick(self, seconds: float) -> None:
        self.now_s += seconds
        if self.learner is not None:
            self.learner.link.turn(tick=seconds > 0)
        if not seconds:
            return
        event = acting.Tick(self.now_s)
        for process in self.processes.values():
            if not process.paused:
                process.act(event)

    # --- rules: actors ---

    def _start(self, actor_id: str) -> None:
        self.incarnations += 1
        process = Process(self, actor_id, self.incarnations)
        self.actors[actor_id] = self.processes[process.peer] = process
        process.act(acting.Tick(self.now_s))

    def _end(self, process: Process, *, ghost: bool) -> None:
        if self.actors.get(process.actor_id) is process:
            del self.actors[process.actor_id]
        if not ghost:
            self.processes.pop(process.peer, None)

    # --- rules: the learner ---

    def go_on(self, n: int) -> bool:
        """The learner's thread runs a bit."""
        learner = self.learner
        if learner is None:
            return False
        try:
            learner.go_on()
        except (Crash, LastCheckpointError):
            self._down(n)
        if learner.closed:
            self.ended = not learner.stopping
            self._down(0)
        return True

    def go_far(self, n: int) -> bool:
        """It runs until it waits for results."""
        if not self.go_on(n):
            return False
        while self.learner is not None and self.learner.at != "waiting":
            self.go_on(n)
        return True

    def _down(self, n: int) -> None:
        if self.learner is not None:
            self.learner.end()
            self.learner = None
        self.crashes += 1
        if n & 1:
            self.disk.power_loss(random.Random(n).randrange)
        else:
            self.disk.kill()

    def _boot(self) -> None:
        self.lineage += 1
        try:
            self.learner = Learner(self)
            self.from_checkpoint += bool(self.checkpoints)
        except (Crash, NotDurableError):
            self._down(self.lineage)

    # --- the end ---

    def finish(self) -> int:
        """Everything is well again: the run comes to its end. Returns the rounds that it took."""
        self.network.heal()
        self.disk.full = False
        self.disk.faults.clear()
        for process in list(self.processes.values()):
            process.paused = False
            if self.actors.get(process.actor_id) is not process:
                self._end(process, ghost=False)
        rounds = 0
        while not self.ended and any(process.dialogue.unacknowledged for process in self.actors.values()):
            assert rounds < MOST_ROUNDS, f"results are not acknowledged: {self.describe()}"
            self._round(work=False)
            rounds += 1
        for more in range(MOST_ROUNDS):
            if self.ended:
                return rounds + more
            self._round(work=True)
        raise AssertionError(f"the run does not come to its end: {self.describe()}")

    def _round(self, *, work: bool) -> None:
        if self.learner is None:
            self._boot()
        for actor_id, process in list(self.actors.items()):
            if process.ended:
                self._end(process, ghost=False)
                self._start(actor_id)
        if not self.actors:
            self._start("a0")
        # Time is needed only where nobody goes on without it.
        before, self._stood = self._stood, self._standing()
        self._tick(0.9 * HEARTBEAT_S if before == self._stood else 0.0)
        self.deliver_all(0)
        if work:
            for process in list(self.processes.values()):
                process.finish(0, fetch=True, all_of_it=True)
            self.deliver_all(0)
        self.go_far(0)
        self.watch.check()

    def close(self) -> None:
        """Nothing refers to itself any more, so that the memory is free at once."""
        if self.learner is not None:
            self.learner.end()
        self.__dict__.clear()

    def _standing(self) -> tuple[int, ...]:
        if self.learner is None:
            return ()
        ledger = self.learner.link.dialogue.ledger
        return self.learner.step, self.learner.life.lineage, ledger.received, ledger.leased

    def describe(self) -> str:
        """Where it stands, for people."""
        learner = self.learner
        if learner is None:
            return f"t={self.now_s:.1f} learner down, checkpoints {sorted(self.checkpoints)}, ended {self.ended}"
        dialogue, exchange = learner.link.dialogue, learner.exchange
        held = {actor.actor_id: (actor.incarnation, sorted(actor.held)) for actor in dialogue.actors.values()}
        actors = {peer.decode(): [work.leased.ordinal for work in process.waiting] for peer, process in self.processes.items()}
        return (
            f"t={self.now_s:.1f} life {learner.life.lineage} step {learner.step} published {learner.published} "
            f"queued {exchange.intake.queued_ordinals} out {sorted(exchange.frontier._open)} open {sorted(dialogue.open)} "
            f"offered {[each.ordinal for each in dialogue.offered]} "
            f"held {held} working {actors} up {len(self.network.up)} down {len(self.network.down)}"
        )
