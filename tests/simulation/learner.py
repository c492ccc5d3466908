"""The learner's process: its real parts, in the order in which `learner.main` makes them and `learner.session` walks.

Only the optimiser, the tensors of a checkpoint and the events' file are left out: weights are the batches that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from learner.exchange import Exchange
from learner.frontier import Frontier, Source
from learner.history import fold
from learner.intake import Batch, Drop, Intake
from learner.journal.journal import Journal
from learner.journal.records import Began, Received, RolledBack
from learner.life import Life
from learner.logbook import Logbook
from learner.recovery import Recovery, Rollback
from learner.selection import superfluous
from protocol.dialogue.learner import LearnerDialogue
from protocol.messages import GroupResult, PolicyVersion
from tests.learner.faulty_disk import FULL, FaultyDisk
from tests.simulation.network import Link
from tests.simulation.plan import DEADLINE_S, GROUPS, HEARTBEAT_S, HELD_OUT

if TYPE_CHECKING:
    from tests.simulation.world import World

Weights = tuple[tuple[int, tuple[int, ...]], ...]
"""(step, ordinals) of every batch that they come from."""
BUFFER_BYTES = 1 << 20


class Silent:
    """Gauges, a log and clips that nobody looks at."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._nothing

    def _nothing(self, *_: object, **__: object) -> None:
        pass


SILENT: Any = Silent()


class Disk(FaultyDisk):
    """May be full for a while."""

    full = False

    def write(self, handle: int, data: bytes) -> None:
        if self.full:
            self.faults[len(self.calls) + 1] = FULL
        super().write(handle, data)


@dataclass(slots=True)
class Checkpoint:
    """``checkpoints/step-N``."""

    life: bytes
    needs: int
    weights: Weights
    fates: dict[int, str]
    """What had become of each ordinal; for the checks alone."""
    whole: bool = True


class WatchedIntake(Intake):
    """Tells where each result ends."""

    fates: dict[int, str]

    def _drop(self, result: GroupResult, reason: Drop) -> str:
        assert result.ordinal not in self.fates, f"ordinal {result.ordinal} was {self.fates[result.ordinal]} and is dropped as {reason}"
        assert reason is not Drop.INVALID, f"ordinal {result.ordinal} is taken for invalid"
        self.fates[result.ordinal] = reason.value
        return super()._drop(result, reason)

    def trained(self) -> None:
        for item in self._in_training:
            ordinal = item.result.ordinal
            assert ordinal not in self.fates, f"ordinal {ordinal} was {self.fates[ordinal]} and is trained"
            self.fates[ordinal] = "trained"
        super().trained()


class Learner:
    """One life. `go_on` lets it run up to the next point at which something else may happen."""

    def __init__(self, world: World) -> None:
        plan, lineage = world.plan, world.lineage
        self.world, self.config, section = world, world.config, world.config.learner
        self.budget_groups = self.config.budget_groups
        self.stopping = False
        at = self._newest()
        kept = world.checkpoints.get(at if at is not None else -1)
        life = msgspec.json.decode(kept.life, type=Life).next(lineage) if kept is not None else Life(lineage=lineage)
        self.journal, found = Journal.open(
            world.disk,
            salvage=life.journal_at > 0 and not world.disk.names(),
            first_needed=life.journal_needs,
            last_known=life.journal_at,
            segment_bytes=plan.segment_bytes,
            buffer_bytes=BUFFER_BYTES,
            new_salt=world.salt,
        )
        self.history = history = fold(life, found.records())
        self.life = life = history.life
        frontier = Frontier([Source(GROUPS)], plan.seed, shuffle=True, state=life.frontier)
        dialogue = LearnerDialogue(
            "run", f"boot-{lineage}", life.version, HEARTBEAT_S, DEADLINE_S, ledger=life.ledger(history.results), settled=life.settled(),
            wanted=frontier.wanted(),
        )  # fmt: skip
        self.link: Any = Link(world, dialogue)
        intake = WatchedIntake("single", self.config.loss, section.max_policy_lag, lineage, 1000, life.counts(), life.ancestry)
        self.fates = intake.fates = dict(kept.fates) if kept is not None else {}
        intake.set_aside(life.frontier.set_aside, life.recovery.rolled_back_at)
        self.logbook = Logbook(
            self.journal, SILENT, history.sequences, limit_bytes=plan.limit_bytes, known=life.journal_at, clock=world.clock
        )
        self.logbook.note(Began(lineage, life.step, "", life.frontier.lease_epoch))
        self.exchange = Exchange(self.config, self.link, frontier, intake, SILENT, SILENT, self.logbook, world.clock)
        self.exchange._log = self.logbook._log = SILENT
        self.recovery = Recovery(section, life.recovery)
        self.step, self.weights = life.step, kept.weights if kept is not None else ()
        self.evaluations = dict(life.evaluations)
        self.catching_up = True
        self.published: PolicyVersion | None = None
        self.closed = False
        self._saved = life.step if kept is not None else -1
        self.at = "starting"
        """What it does at this moment."""
        self._walk = self._run()

    def end(self) -> None:
        """The process is gone; nothing refers to what it was."""
        del self._walk, self.exchange, self.link

    def go_on(self) -> None:
        self.at = next(self._walk)

    # --- the walk of `learner.session.Session` ---

    def _run(self) -> Iterator[str]:
        records = self.history.records
        while records:
            record = records.popleft()
            if isinstance(record, Received):
                self.exchange.retell(record)
                continue
            self._train(self.exchange.retake(record))
            yield "a step again"
        self.catching_up = False
        self.world.watch.caught_up(self)
        self._publish()
        yield "caught up"
        if self.step == 0:
            yield from self._evaluate("before")
        yield from self._measure_and_keep()
        while self.step < self.config.learner.steps:
            batch: list[Batch] = []
            yield from self._wait(lambda: self.exchange.take(self.step), batch)
            if not batch:
                self.exchange.give_up()
                break
            self._train(batch[0])
            yield "trained"
            yield from self._measure_and_keep()
        yield from self._evaluate("after")
        yield from self._checkpoint()
        self.exchange.close("completed")
        self.world.watch.ends(self)
        assert self.exchange.intake.queued == 0, f"{self.exchange.intake.queued} results are queued at the end"
        self.closed = True
        yield "closed"

    def _wait(self, ready: Callable[[], Any], found: list[Any]) -> Iterator[str]:
        self.exchange.receive(block=False)
        while not self.stopping:
            ended = ready()
            self.exchange.top_up(self.step)
            if ended is not None:
                found.append(ended)
                return
            yield "waiting"
            self.exchange.receive(block=False)

    def _measure_and_keep(self) -> Iterator[str]:
        step, section = self.step, self.config.learner
        last = step == section.steps
        if last or step % section.publish_every == 0:
            self._publish()
            yield "published"
        if step and not last and self.world.plan.evaluate_every and step % self.world.plan.evaluate_every == 0:
            yield from self._evaluate(f"step {step}")
        if step and not last and (step % section.checkpoint_every == 0 or self.logbook.wants_checkpoint):
            yield from self._checkpoint()

    def _evaluate(self, label: str) -> Iterator[str]:
        groups = HELD_OUT[: self.world.plan.held_out]
        if not groups or self.stopping or (label != "after" and label in self.evaluations):
            return
        self._publish()
        evaluation = self.exchange.measure(label, self._version, groups)
        found: list[Any] = []
        yield from self._wait(lambda: evaluation if evaluation.done else None, found)
        self.exchange.evaluation = None
        if found:
            self.evaluations[label] = {}

    def _train(self, batch: Batch) -> None:
        number = self.step + 1
        applied = self.world.watch.trains(self, number, batch)
        if applied:
            self.weights += ((number, tuple(item.result.ordinal for item in batch.items)),)
        self.step = number
        self.exchange.settle(number, applied=applied)
        if applied:
            self.recovery.applied(number)
        else:
            action = self.recovery.skipped(number, [item.group.group_id for item in batch.items])
            if isinstance(action, Rollback):
                self._roll_back(action)
        self.world.watch.stepped(self)

    def _roll_back(self, rollback: Rollback) -> None:
        self.exchange.set_aside(rollback.groups, self.step)
        known = self.history.rollbacks.get(self.step)
        if known is not None and (known.to is None or self.world.is_whole(known.to)):
            good = known.to
        else:
            good = self._newest(rollback.good_below)
            good = self._newest(self.life.step + 1) if good is None else good
            self.logbook.note(RolledBack(self.step, good))
            self.logbook.commit()
        if good is not None:
            self.recovery.went_back(good)
        self.weights = self.world.checkpoints[good].weights if good is not None else ()
        if not self.catching_up:
            self._publish()
            self._save()

    @property
    def _version(self) -> PolicyVersion:
        return PolicyVersion(self.life.lineage, self.step)

    def _publish(self) -> None:
        if self._version != self.published:
            self.published = self._version
            self.world.watch.published(self, self.published)
            self.exchange.publish(self.published)

    def _checkpoint(self) -> Iterator[str]:
        if self._saved != self.step:
            yield "about to save"
            self._save()
            yield "saved"

    def _save(self) -> None:
        world, section = self.world, self.config.learner
        self.logbook.begin_checkpoint()
        if world.disk.full:
            if self.stopping or self.step >= section.steps:
                raise LastCheckpointError
            return
        life = Life(
            step=self.step, lineage=self.life.lineage, recovery=self.recovery.state, ancestry=self.life.ancestry,
            evaluations=self.evaluations, **self.exchange.left(),
        )  # fmt: skip
        saved = Checkpoint(msgspec.json.encode(life), life.journal_needs, self.weights, dict(self.fates))
        world.checkpoints[self.step] = saved
        self._saved = self.step
        doomed = superfluous(list(world.checkpoints), section.keep_checkpoints, 0, None, self.recovery.state.good_below)
        for step in set(doomed) - {self.step} - self.recovery.needed(world.checkpoints.keys() - doomed):
            del world.checkpoints[step]
        needs = {step: checkpoint.needs for step, checkpoint in world.checkpoints.items()}
        self.logbook.checkpointed(self.step, needs, complete=self.step >= section.steps)

    def _newest(self, below: int = 1 << 60) -> int | None:
        return max((step for step, kept in self.world.checkpoints.items() if step < below and kept.whole), default=None)


class LastCheckpointError(Exception):
    """As the session's error that ends the process."""
