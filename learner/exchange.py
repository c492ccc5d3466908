"""Results in, leases out: what lies between the link to the actors and the learner's queue."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from configs.schema import RunConfig
from learner.clips import Clips
from learner.evaluation import Evaluation
from learner.frontier import Frontier
from learner.gauges import Gauges
from learner.intake import Batch, Drop, Intake
from learner.journal.records import Dropped, HeldOut, Leased, Received, Skipped, Taken, Trained
from learner.life import account
from learner.logbook import Logbook
from protocol.dialogue.learner_events import Intake as Arrived
from protocol.errors import RbaError, UserError
from protocol.links.learner import LearnerLink
from protocol.logs import Sparing, get_logger
from protocol.messages import GroupResult, InstructionGroup, LeasedGroup, Outcome, PolicyVersion, Purpose

POLL_S = 0.2
"""Longest that a wait for results goes without a look at the stop request and at the link's health."""
FAREWELL_S = 5.0
"""For the link to end, beyond its own time for that. What it still held was acknowledged to nobody."""
ACCOUNT_EVERY_S = 1.0
"""Between two updates of the ledger's metrics while the learner waits."""


class Exchange:
    """Offers groups, takes in their outcomes and keeps the ledger. One thread owns it; `accounts` may be called from any."""

    def __init__(
        self,
        config: RunConfig,
        link: LearnerLink,
        frontier: Frontier,
        intake: Intake,
        clips: Clips,
        gauges: Gauges,
        logbook: Logbook,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._config, self._link, self._clips, self._gauges, self._logbook = config, link, clips, gauges, logbook
        self.frontier, self.intake = frontier, intake
        self._arrived: deque[Arrived] = deque()
        """What came in and is not durable yet."""
        self._to_offer: list[LeasedGroup] = []
        """Groups that are not offered yet: a later life may not know what their ordinals stand for."""
        self._taken: Batch | None = None
        """A batch that is not durable yet."""
        self.evaluation: Evaluation | None = None
        self._log = get_logger("exchange")
        self._accounted_s = 0.0

    def publish(self, version: PolicyVersion) -> None:
        """Tell the actors of a new policy version."""
        self._link.publish(version)

    def measure(self, label: str, version: PolicyVersion, groups: Sequence[InstructionGroup]) -> Evaluation:
        """Offer held-out groups; what comes back fills the evaluation."""
        leased = self.frontier.hold_out(groups)
        self._logbook.note(HeldOut(leased[0].ordinal, len(leased)))
        self.evaluation = Evaluation(label, version, leased)
        self._to_offer += leased
        return self.evaluation

    def top_up(self, step: int) -> None:
        """Offer as many training groups as the bound on staleness and the rest of the run, after `step` steps, have room for."""
        section = self._config.learner
        held = self.frontier.open_training + self.intake.queued
        room = min(self._config.budget_groups, (section.steps - step) * section.batch_groups) - held
        if room > 0 and not self._logbook.stalled:
            self._to_offer += self.frontier.take(room)
            if (below := self.frontier.reserve(self._config.budget_groups)) is not None:
                self._logbook.note(Leased(below))
            if self._logbook.commit():
                self._offer()

    def _offer(self) -> None:
        """What the ordinals stand for is durable."""
        passed = self.frontier.passed()
        if self._to_offer or passed:
            self._link.offer(self._to_offer, passed)
            self._to_offer = []

    def set_aside(self, groups: Sequence[str], step: int) -> None:
        """The weights of `step` are older ones again; `groups`, by id, are left out now. Raises `RbaError` when no other is left."""
        self.frontier.set_aside(groups)
        self.intake.set_aside(groups, step)

    def receive(self, *, block: bool) -> None:
        """Take in what has arrived, waiting at most `POLL_S` for it, make it durable, and acknowledge it.

        While it cannot be made durable it is neither used nor acknowledged. Raises when the link has failed.
        """
        self._link.raise_if_failed()
        while True:
            try:
                arrived = self._link.intakes.get(block=block, timeout=POLL_S if block else None)
            except queue.Empty:
                break
            if arrived is None:
                self._link.raise_if_failed()
                raise RbaError("the link to the rollout actors has ended")
            block = False
            self._note(arrived)
        if self._logbook.commit():
            self._offer()
            while self._arrived:
                arrived = self._arrived.popleft()
                self._take_in(arrived)
                self._link.settle(arrived)
                if arrived.results:
                    self._gauges.acknowledged()
        if self._clock() - self._accounted_s > ACCOUNT_EVERY_S:
            self.account()

    def close(self, reason: str) -> None:
        """Say Bye to the actors and account for everything that still came; what is queued is dropped."""
        self.receive(block=False)
        self._link.close(reason)
        try:
            while (late := self._link.intakes.get(timeout=FAREWELL_S)) is not None:  # the link's last word is None
                self._note(late)
        except queue.Empty:
            self._log.warning("the link does not end", waited_s=FAREWELL_S)
        self._logbook.commit()
        while self._arrived:
            self._take_in(self._arrived.popleft())
        self.intake.clear()

    def take(self, step: int) -> Batch | None:
        """The groups of the step after `step`, once it is durable that they are; None until then."""
        if self._taken is None:
            self._taken = self.intake.take(self._config.learner.batch_groups, step)
            if self._taken is None:
                return None
            self._logbook.note(Taken(step + 1, [item.result.ordinal for item in self._taken.items]))
        self._note_drops()
        if not self._logbook.commit():
            return None
        taken, self._taken = self._taken, None
        return taken

    def settle(self, step: int, *, applied: bool) -> None:
        """The batch that was taken has changed the weights, or has not."""
        (self.intake.trained if applied else self.intake.skipped)()
        self._logbook.note(Trained(step) if applied else Skipped(step))
        self._note_drops()

    def give_up(self) -> None:
        """No step comes that would need what was taken."""
        if self._taken is not None:
            self.intake.give_back()
            self._taken = None

    def _note_drops(self) -> None:
        for ordinal, reason in self.intake.dropped:
            self._logbook.note(Dropped(ordinal, reason))
        self.intake.dropped.clear()

    def _note(self, arrived: Arrived) -> None:
        self._arrived.append(arrived)
        for result in arrived.results:
            leased = self.frontier.answered(result.ordinal, result.purpose)
            position = self.frontier.position_of(result.ordinal) if result.purpose is Purpose.TRAIN else None
            self._logbook.note(Received(result, position, leased.seed if leased else 0, arrived.actor_id))

    def _take_in(self, arrived: Arrived) -> None:
        for result in arrived.results:
            leased = self.frontier.close(result.ordinal)
            if self.evaluation is not None and result.purpose is Purpose.EVALUATE:
                self.evaluation.receive(result)
            self._gauges.outcome(result)
            self._queue(leased, result, arrived.actor_id)
        self._note_drops()

    def _queue(self, leased: LeasedGroup | None, result: GroupResult, actor_id: str) -> None:
        why = self.intake.receive(leased, result, self._unusable(leased, result))
        if why.startswith((Drop.INVALID, Drop.FILTERED)):
            self._log.warning("group dropped", ordinal=result.ordinal, actor=actor_id, why=why[: Sparing.DETAIL])

    # --- what the journal has -------------------------------------------------------------------------------

    def retell(self, record: Received) -> None:
        """A result that an earlier life received."""
        result = record.result
        if record.position is None:
            return
        group = self.frontier.group_at(record.position)
        leased = LeasedGroup(result.ordinal, result.lease_epoch, group, Purpose.TRAIN, record.seed)
        self._queue(leased if group.group_id == result.group_id else None, result, record.actor_id)
        self.intake.dropped.clear()  # that life has noted it

    def retake(self, record: Taken) -> Batch:
        """The batch of a step that an earlier life took. Raises `RbaError` where the journal and the queue do not agree."""
        try:
            batch = self.intake.take_again(record.ordinals, record.step - 1)
        except KeyError as error:
            raise RbaError(
                f"step {record.step} trained the groups {record.ordinals}, says the journal, but the result of {error} can no longer be "
                "used: is the data set whole? Without the journal (move the folder journal/ away) the run goes on from its checkpoint alone"
            ) from None
        self.intake.dropped.clear()
        return batch

    def _unusable(self, leased: LeasedGroup | None, result: GroupResult) -> str:
        """Why the learner cannot read a training group's audio, or "". Found out here, it costs one group and not the run."""
        if leased is None or result.purpose is not Purpose.TRAIN or result.outcome is Outcome.FILTERED:
            return ""
        try:
            for utterance in leased.group.utterances:
                if utterance.audio is not None:
                    self._clips.samples(utterance.audio)
        except UserError as error:
            return str(error)
        return ""

    # --- the ledger -----------------------------------------------------------------------------------------

    def accounts(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The ledger at this moment and the registered actors. Results between link and queue count as queued."""
        counts = self.intake.counts
        trained, dropped = counts.trained, Counter(counts.dropped)  # read before the link's counts, which only grow
        ledger = self._link.ledger()
        ledger.trained, ledger.dropped = trained, dropped
        ledger.queued = ledger.unique - trained - dropped.total()
        return ledger.as_dict(), self._link.status()["actors"]

    def left(self) -> dict[str, Any]:
        """The fields of a `Life` that lie between link and queue: what a later life of the run needs of them."""
        frontier = self.frontier.state(self.intake.queued_ordinals)
        durable, needs = self._logbook.position(frontier.untrained)
        kept = account(self.accounts()[0], self.intake.counts)
        return {"frontier": frontier, "journal_at": durable, "journal_needs": needs, **kept}

    def account(self) -> dict[str, Any]:
        """The ledger, with its metrics brought up to date."""
        self._accounted_s = self._clock()
        ledger, actors = self.accounts()
        self._gauges.accounts(ledger, self.intake.counts, len(actors))
        return ledger
