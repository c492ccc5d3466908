"""A whole run: its processes, its network and its disk, and all that may happen to them.

Every rule takes one number, from which it draws its choices, and returns True when something happened.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import itemgetter

from learner.journal.journal import NotDurableError
from protocol.dialogue import actor as acting
from protocol.messages import PolicyVersion
from tests.learner.faulty_disk import Crash, Fault
from tests.simulation.actor import Process
from tests.simulation.learner import Checkpoint, Disk, LastCheckpointError, Learner
from tests.simulation.network import Network
from tests.simulation.plan import DEADLINE_S, HEARTBEAT_S, Plan
from tests.simulation.watch import Watch

WAITS_S = (0.2, HEARTBEAT_S, HEARTBEAT_S, 3.5 * HEARTBEAT_S, 6.0, DEADLINE_S + 1)
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

    def deliver_up(self, n: int) -> bool:
        """A message reaches the learner; one in four is not the oldest, one in eight stays and comes again."""
        up = self.network.up
        if not up or self.learner is None:
            return False
        n, index, again = n >> 5, (n >> 5) % len(up) if n % 4 == 3 else 0, n >> 2 & 7 == 7
        self.learner.link.turn(up[index] if again else up.pop(index))
        return True

    def deliver_down(self, n: int) -> bool:
        """A message of the learner reaches its actor."""
        down = self.network.down
        if not down:
            return False
        index, again = (n >> 5) % len(down) if n % 4 == 3 else 0, n >> 2 & 7 == 7
        peer, message = down[index] if again else down.pop(index)
        process = self.processes.get(peer)
        if process is not None and not process.paused:
            process.act(acting.LearnerSaid(message, self.now_s))
        return True

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

    def lose(self, n: int) -> bool:
        """A message is lost."""
        messages = self.network.up if n & 1 else self.network.down
        if not messages:
            return False
        del messages[(n >> 1) % len(messages)]  # type: ignore[attr-defined]
        return True

    def partition(self, n: int) -> bool:
        """Between an actor and the learner nothing gets through any more, one way or both."""
        if not self.processes:
            return False
        peer = list(self.processes)[(n >> 2) % len(self.processes)]
        if n & 3 != 1:
            self.network.cut_up.add(peer)
        if n & 3 != 2:
            self.network.cut_down.add(peer)
        return True

    def heal(self, n: int) -> bool:
        """The network is whole."""
        healed = bool(self.network.cut_up or self.network.cut_down)
        self.network.heal()
        return healed

    def wait(self, n: int) -> bool:
        """Time passes, for everybody who is not stopped."""
        self._tick(WAITS_S[n % len(WAITS_S)])
        return True

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

    def all_well(self, n: int) -> bool:
        """For a moment everybody works, and everything arrives."""
        if self.learner is None:
            return False
        self._tick(0.0)
        self.deliver_all(n)
        for process in self.processes.values():
            if not process.paused:
                process.finish(0, fetch=n & 1 == 0, all_of_it=True)
        self.deliver_all(n)
        return self.go_far(n >> 1)

    # --- rules: actors ---

    def work(self, n: int) -> bool:
        """An actor ends its work on a group, or on all that it has."""
        ready = [process for process in self.processes.values() if not process.paused and (process.waiting or process.applied is None)]
        if not ready:
            return False
        return ready[n % len(ready)].finish(n >> 6, fetch=n >> 3 & 1 == 0, all_of_it=n >> 4 & 3 == 0)

    def kill_actor(self, n: int) -> bool:
        """An actor's process is gone, or only thought to be; its next incarnation starts."""
        if not self.actors:
            return False
        names = list(self.actors)
        self._end(self.actors[names[(n >> 1) % len(names)]], ghost=bool(n & 1))
        self._start(names[(n >> 1) % len(names)])
        return True

    def leave(self, n: int) -> bool:
        """An actor leaves in good order; what it has finished may still be on its way."""
        if len(self.actors) < 2:
            return False
        names = list(self.actors)
        process = self.actors[names[n % len(names)]]
        process.dialogue.handle(acting.GivingBack(frozenset()))
        process.act(acting.Tick(self.now_s))
        process.act(acting.Leaving("scaled down"))
        self._end(process, ghost=False)
        return True

    def join(self, n: int) -> bool:
        """One actor more."""
        free = [f"a{number}" for number in range(4) if f"a{number}" not in self.actors]
        if not free:
            return False
        self._start(free[0])
        return True

    def pause(self, n: int) -> bool:
        """An actor's process is stopped, or goes on."""
        if not self.actors:
            return False
        process = list(self.actors.values())[n % len(self.actors)]
        process.paused = not process.paused
        return True

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

    def crash(self, n: int) -> bool:
        """The learner's process ends, or its machine loses power; at once, or in the middle of a later write."""
        if self.learner is None:
            return False
        if n & 1:
            self.disk.faults[len(self.disk.calls) + 1 + (n >> 1) % 3] = Fault(0, (n >> 3) % 600)
        else:
            self._down(n >> 1)
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

    def boot(self, n: int) -> bool:
        """The run goes on from its last whole checkpoint."""
        if self.learner is not None or self.ended:
            return False
        self._boot()
        return True

    def _boot(self) -> None:
        self.lineage += 1
        try:
            self.learner = Learner(self)
            self.from_checkpoint += bool(self.checkpoints)
        except (Crash, NotDurableError):
            self._down(self.lineage)

    def stop(self, n: int) -> bool:
        """The run is to end in good order, before its last step."""
        if self.learner is None or self.learner.stopping or n % 4:
            return False
        self.learner.stopping = True
        return True

    def nonfinite(self, n: int) -> bool:
        """The next step has no finite loss, or the next two, after which the weights go back."""
        if len(self.watch.applied) - sum(self.watch.applied.values()) >= 4:
            return False
        self.watch.nonfinite = 1 if n % 4 == 3 else 2
        return True

    def fill_disk(self, n: int) -> bool:
        """The disk is full, or has room again."""
        self.disk.full = not self.disk.full
        return True

    def damage(self, n: int) -> bool:
        """The newest checkpoint turns out to be damaged when it is needed."""
        whole = sorted(step for step, kept in self.checkpoints.items() if kept.whole)
        if self.learner is not None or len(whole) < 2 or len(whole) < len(self.checkpoints) or whole[-2] < self.journal_from:
            return False
        self.checkpoints[whole[-1]].whole = False
        return True

    def lose_journal(self, n: int) -> bool:
        """Somebody moves the journal away: all that it alone has kept is gone, as the guarantees say."""
        if self.learner is not None or not self.checkpoints or n % 4:
            return False
        self.disk = Disk.of({})
        newest = max((kept for kept in self.checkpoints.items() if kept[1].whole), key=itemgetter(0))
        self.watch.forget(newest)
        self.journal_from = newest[0]
        return True

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
            f"queued {exchange.intake.queued_ordinals}+{len(exchange.intake._in_training)} out {sorted(exchange.frontier._open)} open {sorted(dialogue.open)} offered {[each.ordinal for each in dialogue.offered]} "
            f"held {held} working {actors} up {len(self.network.up)} down {len(self.network.down)}"
        )


RULES: dict[str, int] = {
    "deliver_up": 12, "deliver_down": 12, "deliver_all": 8, "work": 12, "go_on": 12, "go_far": 8, "all_well": 10, "wait": 6, "boot": 8,
    "lose": 3, "partition": 1, "heal": 2, "kill_actor": 2, "leave": 1, "join": 1, "pause": 2, "crash": 3, "stop": 1,
    "nonfinite": 2, "fill_disk": 1, "damage": 2, "lose_journal": 1,
}  # fmt: skip
"""Name of each rule, and how often it comes in a random walk."""
Rule = Callable[[World, int], bool]
