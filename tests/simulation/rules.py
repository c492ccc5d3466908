"""All that may happen to a run. Each rule draws its choices from one number, and returns True when something happened."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from protocol.dialogue import actor_events as acting
from tests.learner.faulty_disk import Fault
from tests.simulation.learner import Disk
from tests.simulation.plan import DEADLINE_S, HEARTBEAT_S
from tests.simulation.world import World

Rule = Callable[[World, int], bool]
WAITS_S = (0.2, HEARTBEAT_S, HEARTBEAT_S, 3.5 * HEARTBEAT_S, 6.0, DEADLINE_S + 1)


def deliver_up(world: World, n: int) -> bool:
    """A message reaches the learner; one in four is not the oldest, one in eight stays and comes again."""
    up = world.network.up
    if not up or world.learner is None:
        return False
    n, index, again = n >> 5, (n >> 5) % len(up) if n % 4 == 3 else 0, n >> 2 & 7 == 7
    world.learner.link.turn(up[index] if again else up.pop(index))
    return True


def deliver_down(world: World, n: int) -> bool:
    """A message of the learner reaches its actor."""
    down = world.network.down
    if not down:
        return False
    index, again = (n >> 5) % len(down) if n % 4 == 3 else 0, n >> 2 & 7 == 7
    peer, message = down[index] if again else down.pop(index)
    process = world.processes.get(peer)
    if process is not None and not process.paused:
        process.act(acting.LearnerSaid(message, world.now_s))
    return True


def lose(world: World, n: int) -> bool:
    """A message is lost."""
    messages = world.network.up if n & 1 else world.network.down
    if not messages:
        return False
    del messages[(n >> 1) % len(messages)]  # type: ignore[attr-defined]
    return True


def partition(world: World, n: int) -> bool:
    """Between an actor and the learner nothing gets through any more, one way or both."""
    if not world.processes:
        return False
    peer = list(world.processes)[(n >> 2) % len(world.processes)]
    if n & 3 != 1:
        world.network.cut_up.add(peer)
    if n & 3 != 2:
        world.network.cut_down.add(peer)
    return True


def heal(world: World, n: int) -> bool:
    """The network is whole."""
    healed = bool(world.network.cut_up or world.network.cut_down)
    world.network.heal()
    return healed


def wait(world: World, n: int) -> bool:
    """Time passes, for everybody who is not stopped."""
    world._tick(WAITS_S[n % len(WAITS_S)])
    return True


def all_well(world: World, n: int) -> bool:
    """For a moment everybody works, and everything arrives."""
    if world.learner is None:
        return False
    world._tick(0.0)
    world.deliver_all(n)
    for process in world.processes.values():
        if not process.paused:
            process.finish(0, fetch=n & 1 == 0, all_of_it=True)
    world.deliver_all(n)
    return world.go_far(n >> 1)


def work(world: World, n: int) -> bool:
    """An actor ends its work on a group, or on all that it has."""
    ready = [process for process in world.processes.values() if not process.paused and (process.waiting or process.applied is None)]
    if not ready:
        return False
    return ready[n % len(ready)].finish(n >> 6, fetch=n >> 3 & 1 == 0, all_of_it=n >> 4 & 3 == 0)


def kill_actor(world: World, n: int) -> bool:
    """An actor's process is gone, or only thought to be; its next incarnation starts."""
    if not world.actors:
        return False
    names = list(world.actors)
    world._end(world.actors[names[(n >> 1) % len(names)]], ghost=bool(n & 1))
    world._start(names[(n >> 1) % len(names)])
    return True


def leave(world: World, n: int) -> bool:
    """An actor leaves in good order; what it has finished may still be on its way."""
    if len(world.actors) < 2:
        return False
    names = list(world.actors)
    process = world.actors[names[n % len(names)]]
    process.dialogue.handle(acting.GivingBack(frozenset()))
    process.act(acting.Tick(world.now_s))
    process.act(acting.Leaving("scaled down"))
    world._end(process, ghost=False)
    return True


def join(world: World, n: int) -> bool:
    """One actor more."""
    free = [f"a{number}" for number in range(4) if f"a{number}" not in world.actors]
    if not free:
        return False
    world._start(free[0])
    return True


def pause(world: World, n: int) -> bool:
    """An actor's process is stopped, or goes on."""
    if not world.actors:
        return False
    process = list(world.actors.values())[n % len(world.actors)]
    process.paused = not process.paused
    return True


def crash(world: World, n: int) -> bool:
    """The learner's process ends, or its machine loses power; at once, or in the middle of a later write."""
    if world.learner is None:
        return False
    if n & 1:
        world.disk.faults[len(world.disk.calls) + 1 + (n >> 1) % 3] = Fault(0, (n >> 3) % 600)
    else:
        world._down(n >> 1)
    return True


def boot(world: World, n: int) -> bool:
    """The run goes on from its last whole checkpoint."""
    if world.learner is not None or world.ended:
        return False
    world._boot()
    return True


def stop(world: World, n: int) -> bool:
    """The run is to end in good order, before its last step."""
    if world.learner is None or world.learner.stopping or n % 4:
        return False
    world.learner.stopping = True
    return True


def nonfinite(world: World, n: int) -> bool:
    """The next step has no finite loss, or the next two, after which the weights go back."""
    if len(world.watch.applied) - sum(world.watch.applied.values()) >= 4:
        return False
    world.watch.nonfinite = 1 if n % 4 == 3 else 2
    return True


def fill_disk(world: World, n: int) -> bool:
    """The disk is full, or has room again."""
    world.disk.full = not world.disk.full
    return True


def damage(world: World, n: int) -> bool:
    """The newest checkpoint turns out to be damaged when it is needed."""
    whole = sorted(step for step, kept in world.checkpoints.items() if kept.whole)
    if world.learner is not None or len(whole) < 2 or len(whole) < len(world.checkpoints) or whole[-2] < world.journal_from:
        return False
    world.checkpoints[whole[-1]].whole = False
    return True


def lose_journal(world: World, n: int) -> bool:
    """Somebody moves the journal away: all that it alone has kept is gone, as the guarantees say."""
    if world.learner is not None or not world.checkpoints or n % 4:
        return False
    world.disk = Disk.of({})
    newest = max((kept for kept in world.checkpoints.items() if kept[1].whole), key=itemgetter(0))
    world.watch.forget(newest)
    world.journal_from = newest[0]
    return True


RULES: dict[Rule, int] = {
    deliver_up: 12, deliver_down: 12, World.deliver_all: 8, work: 12, World.go_on: 12, World.go_far: 8, all_well: 10, wait: 6, boot: 8,
    lose: 3, partition: 1, heal: 2, kill_actor: 2, leave: 1, join: 1, pause: 2, crash: 3, stop: 1, nonfinite: 2, fill_disk: 1, damage: 2,
    lose_journal: 1,
}  # fmt: skip
"""How often each rule comes."""
