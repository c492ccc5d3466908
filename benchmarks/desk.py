"""The learner's end of a benchmark of actors: it leases groups, takes in what comes back, and trains nothing."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Self

import msgspec

from protocol.dialogue.learner import LearnerDialogue
from protocol.links.learner import LearnerLink
from protocol.messages import InstructionGroup, LeasedGroup, PolicyVersion

HEARTBEAT_S = 2.0
END = b""


class Desk:
    """A learner's link in a process of its own, as a learner has one. For use in a `with` statement."""

    def __init__(self, version: PolicyVersion) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, version), daemon=True)
        self._process.start()
        self.endpoint: str = self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send_bytes(END)
        self._process.join(10)

    def lease(self, groups: Sequence[InstructionGroup]) -> None:
        """Offer the groups, each under an ordinal of its own."""
        self._pipe.send_bytes(msgspec.msgpack.encode(groups))

    def answered(self) -> float:
        """Wait until all of them have come back. Returns the seconds from the offer to the last result. Blocks its thread."""
        seconds: float = self._pipe.recv()
        return seconds


def _serve(pipe: Connection, version: PolicyVersion) -> None:
    link = LearnerLink("127.0.0.1", 0, LearnerDialogue("bench", "bench", version, HEARTBEAT_S))
    link.start()
    pipe.send(link.endpoint)
    ordinals = itertools.count()
    decoder = msgspec.msgpack.Decoder(list[InstructionGroup])
    while (said := pipe.recv_bytes()) != END:
        groups = decoder.decode(said)
        started_s, waiting = time.perf_counter(), len(groups)
        link.offer([LeasedGroup(ordinal, 0, group, seed=ordinal) for group, ordinal in zip(groups, ordinals, strict=False)])
        while waiting:
            arrived = link.intakes.get()
            if arrived is None:
                link.raise_if_failed()
                return
            waiting -= len(arrived.results)
            link.settle(arrived)
        pipe.send(time.perf_counter() - started_s)
    link.close("measured")
