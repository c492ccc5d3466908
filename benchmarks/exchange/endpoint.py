"""The learner's end without its engine: link, exchange, queue and journal as the learner has them; a step only takes time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from benchmarks.exchange.load import Load
from configs.schema import RunConfig
from learner.clips import Clips
from learner.exchange import Exchange
from learner.frontier import Frontier, Source
from learner.gauges import Gauges
from learner.intake import Intake
from learner.journal.disk import PosixDisk
from learner.journal.journal import Journal
from learner.logbook import Logbook
from policies.adapter import Processing
from protocol.dialogue.learner import LearnerDialogue
from protocol.gate import Door
from protocol.links.learner import LearnerLink
from protocol.messages import PolicyVersion
from protocol.metrics import Metrics

GROUPS = 64
VOCABULARY = 1000
CLIP = np.zeros(16, np.float32)


class Silent:
    """Stands for a model's processing: every clip is short enough."""

    def audio_tokens(self, _samples: int) -> int:
        """See `policies.adapter.Processing`."""
        return 1


def run_config(batch_groups: int, max_policy_lag: int, heartbeat_s: float) -> RunConfig:
    """A run that goes on for ever."""
    learner = {"steps": 1 << 40, "batch_groups": batch_groups, "max_policy_lag": max_policy_lag, "heartbeat_s": heartbeat_s}
    sections = {"model": {"path": "none"}, "data": {"train": "none"}, "rewards": {"scorer": "bleu"}, "learner": learner}
    return RunConfig.model_validate({"strategy": "group", **sections})


class Endpoint:
    """Trains nothing: groups come, are durable, are acknowledged, and leave the queue a batch at a time."""

    def __init__(
        self,
        folder: Path,
        load: Load,
        batch_groups: int,
        max_policy_lag: int = 1,
        *,
        port: int = 0,
        boot: int = 0,
        heartbeat_s: float = 2.0,
        door: Door | None = None,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        config = run_config(batch_groups, max_policy_lag, heartbeat_s)
        version = PolicyVersion(boot, 0)
        dialogue = LearnerDialogue("bench", f"boot-{boot}", version, heartbeat_s, config.learner.lease_deadline_s)
        self.link = LearnerLink("127.0.0.1", port, dialogue, door, refused)
        self.link.start()
        self.up_s = time.monotonic()
        self.journal, _ = Journal.open(PosixDisk(folder))
        gauges = Gauges(Metrics("learner", "0"))
        frontier = Frontier([Source(load.groups(GROUPS))], 0, shuffle=False)
        intake = Intake("group", config.loss, max_policy_lag, boot, VOCABULARY)
        clips = Clips(lambda _: CLIP, cast(Processing, Silent()))
        logbook = Logbook(self.journal, gauges, limit_bytes=config.learner.journal_limit_bytes)
        self.exchange = Exchange(config, self.link, frontier, intake, clips, gauges, logbook)
        self.boot, self.step = boot, 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, until: Callable[[], Any], step_s: float = 0.0) -> None:
        """Consumes: results. Produces: steps that take `step_s` each. Waits for: a batch. Unblocked by: actors, or `until` being true."""
        waits = True
        while not until():
            self.exchange.top_up(self.step)
            self.exchange.receive(block=waits)
            waits = self.exchange.take(self.step) is None
            if waits:
                continue
            self.exchange.top_up(self.step)
            if step_s:
                time.sleep(step_s)
            self.step += 1
            self.exchange.settle(self.step, applied=True)
            self.exchange.publish(PolicyVersion(self.boot, self.step))

    @property
    def pairs(self) -> int:
        """That are durable and acknowledged."""
        return self.exchange.intake.counts.pairs_unique

    def rate(self, warm_s: float, measured_s: float) -> float:
        """Pairs a second."""
        self.run(after(warm_s))
        started_s, before = time.monotonic(), self.pairs
        self.run(after(measured_s))
        return (self.pairs - before) / (time.monotonic() - started_s)

    def faults(self) -> list[str]:
        """Identities of the ledger that do not hold (see `protocol.ledger.Ledger.faults`)."""
        ledger, counts = self.link.ledger(), self.exchange.intake.counts
        ledger.trained, ledger.dropped, ledger.queued = counts.trained, counts.dropped, self.exchange.intake.queued
        return ledger.faults()

    def close(self) -> None:
        """Say Bye, and let go; once."""
        if not self._closed:
            self._closed = True
            self.exchange.close("measured")
            self.journal.close()


def after(seconds: float) -> Callable[[], bool]:
    """True once so much time has passed."""
    ends_s = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends_s
