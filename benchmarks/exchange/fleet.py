"""Simulated rollout actors: the real dialogue over real sockets, with answers that are made up after a set time.

    python -m benchmarks.exchange.fleet ENDPOINT --actors N --capacity GROUPS --generation-s SECONDS --pairs PAIRS

One process stands for many actors. It ends when the learner has said Bye to all of them and prints what they saw, as JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import zmq

from benchmarks.exchange.load import Load
from protocol import sockets
from protocol.codec import DIALOGUE_CAP_BYTES, LEARNER_CODEC, encode
from protocol.dialogue.actor import ActorDialogue
from protocol.dialogue.actor_events import Action, Connected, Ended, Granted, LearnerSaid, Registered, Results, Send, Tick
from protocol.keyring import ClientKeys
from protocol.messages import Ack, Completion, LeasedGroup, PolicyVersion

TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Shape:
    """How a fleet works."""

    actors: int = 1
    capacity: int = 1
    """Groups that an actor holds, all of which it samples at once."""
    generation_s: float = 0.0
    """From a lease to its result."""
    pairs: int = 8
    first: int = 0
    """Number of the first actor."""


@dataclass(slots=True)
class Seen:
    """What the fleet saw."""

    acknowledged: int = 0
    """Messages of results, one group each."""
    first_ack_s: dict[str, float] = field(default_factory=dict)
    """When the first acknowledgement of each boot of the learner came, on the machine's monotonic clock."""


class Fleet:
    """See the module's text."""

    def __init__(self, endpoint: str, shape: Shape, keys: ClientKeys | None = None) -> None:
        self._shape, self._load = shape, Load(shape.pairs)
        self._context: sockets.Context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 3 * shape.actors + 16)
        self._poller = zmq.Poller()
        self._actors: dict[sockets.Socket, ActorDialogue] = {}
        self._connections: dict[sockets.Socket, sockets.Socket] = {}
        for number in range(shape.first, shape.first + shape.actors):
            name = f"rollout-{number}"
            socket = sockets.dealer(self._context, endpoint, DIALOGUE_CAP_BYTES, f"{name}/0".encode(), keys)
            self._actors[socket] = ActorDialogue(name, 0, shape.capacity, engine="simulated")
            self._connections[monitor := sockets.connections(socket)] = socket
            for each in (socket, monitor):
                self._poller.register(each, zmq.POLLIN)
        self._due: list[tuple[float, int, sockets.Socket, LeasedGroup]] = []
        self._number = count()
        self._sampled: tuple[PolicyVersion | None, list[Completion]] = (None, [])
        self._ended = 0
        self.seen = Seen()

    def run(self) -> Seen:
        """Consumes: leases. Produces: results. Waits for: messages, and the time that a result takes. Unblocked by: both, and a tick."""
        ticked_s = float("-inf")
        while self._ended < len(self._actors):
            now_s = time.monotonic()
            if now_s - ticked_s >= TICK_S:
                ticked_s = now_s
                for socket, actor in self._actors.items():
                    self._act(socket, actor.handle(Tick(now_s)))
            while self._due and self._due[0][0] <= now_s:
                _, _, socket, leased = heapq.heappop(self._due)
                self._finish(socket, leased, now_s)
            wait_s = min(self._due[0][0] if self._due else now_s + TICK_S, ticked_s + TICK_S) - now_s
            for socket, _ in self._poller.poll(max(0, math.ceil(1000 * wait_s))):
                if socket in self._connections:
                    self._greet(socket)
                else:
                    self._receive(socket)
        for socket in self._actors:
            socket.disable_monitor()
        self._context.destroy(linger=0)
        return self.seen

    def _greet(self, monitor: sockets.Socket) -> None:
        socket = self._connections[monitor]
        if sockets.reconnected(monitor) and socket.poll(1000, zmq.POLLOUT):
            self._act(socket, self._actors[socket].handle(Connected(time.monotonic())))

    def _receive(self, socket: sockets.Socket) -> None:
        actor = self._actors[socket]
        while True:
            try:
                message, _ = LEARNER_CODEC.decode(socket.recv_multipart(flags=zmq.DONTWAIT))
            except zmq.Again:
                return
            if isinstance(message, Ack):
                self.seen.acknowledged += 1
                self.seen.first_ack_s.setdefault(actor.boot_id, time.monotonic())
            self._act(socket, actor.handle(LearnerSaid(message, time.monotonic())))

    def _act(self, socket: sockets.Socket, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    sockets.send(socket, encode(action.message))
                case Granted():
                    due_s = time.monotonic() + self._shape.generation_s
                    for leased in action.lease.groups:
                        heapq.heappush(self._due, (due_s, next(self._number), socket, leased))
                case Ended():
                    self._ended += 1
                case Registered():
                    pass

    def _finish(self, socket: sockets.Socket, leased: LeasedGroup, now_s: float) -> None:
        actor = self._actors[socket]
        if actor.version is None:
            raise RuntimeError("a lease came without a version")
        if self._sampled[0] != actor.version:
            self._sampled = (actor.version, self._load.completions(actor.version))
        self._act(socket, actor.handle(Results([self._load.result(leased, self._sampled[1])], now_s)))


def start(endpoint: str, shape: Shape) -> subprocess.Popen[str]:
    """A fleet in a process of its own."""
    options = [f"--{name.replace('_', '-')}={getattr(shape, name)}" for name in shape.__slots__]
    command = [sys.executable, "-m", "benchmarks.exchange.fleet", endpoint, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def finished(fleet: subprocess.Popen[str], timeout_s: float = 30.0) -> Seen:
    """What a fleet saw that was told Bye. Raises `RuntimeError` when it failed, `subprocess.TimeoutExpired` when it does not end."""
    try:
        output, _ = fleet.communicate(timeout=timeout_s)
    finally:
        fleet.kill()
    if fleet.returncode != 0:
        raise RuntimeError(f"the simulated actors ended with {fleet.returncode}")
    seen: dict[str, Any] = json.loads(output)
    return Seen(**seen)


def main() -> None:
    """Run a fleet and print what it saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    for name, kind in (("actors", int), ("capacity", int), ("generation-s", float), ("pairs", int), ("first", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Shape(), name.replace("-", "_")))
    options = vars(parser.parse_args())
    seen = Fleet(options.pop("endpoint"), Shape(**options)).run()
    print(json.dumps({"acknowledged": seen.acknowledged, "first_ack_s": seen.first_ack_s}))


if __name__ == "__main__":
    main()
