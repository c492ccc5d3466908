"""Faults put into the product on purpose. The model has to find each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from learner import frontier, history
from learner.exchange import Exchange
from learner.frontier import Frontier, FrontierState
from learner.intake import Batch, Intake
from learner.journal import segment
from learner.journal.journal import Journal
from learner.journal.records import HeldOut, Record
from learner.life import Life
from learner.logbook import Logbook
from protocol.dialogue import learner as dialogue
from protocol.dialogue import learner_events as learning
from protocol.dialogue.learner import LearnerDialogue
from protocol.dialogue.leaseholder import Actor
from protocol.dialogue.sequences import SequenceSet
from protocol.messages import GroupResult
from tests.simulation import learner as simulated
from tests.simulation.learner import Disk

Mutation = Callable[[pytest.MonkeyPatch], None]


def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    note = Exchange._note

    def settling(self: Exchange, arrived: learning.Intake) -> None:
        note(self, arrived)
        self._link.settle(arrived)

    patch.setattr(Exchange, "_note", settling)


def acknowledged_though_the_disk_refused(patch: pytest.MonkeyPatch) -> None:
    commit = Logbook.commit
    patch.setattr(Logbook, "commit", lambda self: commit(self) or True)


def written_and_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "fdatasync", lambda self, handle: None)


def every_result_is_the_first(patch: pytest.MonkeyPatch) -> None:
    enter = LearnerDialogue._enter

    def entering(self: LearnerDialogue, result: GroupResult) -> bool:
        if result.ordinal in self.settled:
            self.ledger.enter(result)
            return True
        return enter(self, result)

    patch.setattr(LearnerDialogue, "_enter", entering)


def a_life_forgets_what_is_settled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Life, "settled", lambda self: SequenceSet())


def epochs_begin_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frontier, "EPOCHS_A_LIFE", 0)
    patch.setattr(history, "EPOCHS_A_LIFE", 0)


def an_expired_lease_keeps_its_epoch(patch: pytest.MonkeyPatch) -> None:
    expire = LearnerDialogue._expire

    def expiring(self: LearnerDialogue, ordinal: int) -> None:
        expire(self, ordinal)
        first = self.offered.popleft()
        self.offered.appendleft(msgspec.structs.replace(first, lease_epoch=first.lease_epoch - 1))

    patch.setattr(LearnerDialogue, "_expire", expiring)


def an_expired_lease_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    expire = LearnerDialogue._expire

    def expiring(self: LearnerDialogue, ordinal: int) -> None:
        expire(self, ordinal)
        self.offered.popleft()

    patch.setattr(LearnerDialogue, "_expire", expiring)


def a_cursor_ahead_of_the_queue(patch: pytest.MonkeyPatch) -> None:
    state = Frontier.state
    patch.setattr(Frontier, "state", lambda self, queued: state(self, ()))


def a_cursor_ahead_of_the_leases(patch: pytest.MonkeyPatch) -> None:
    state = Frontier.state

    def ahead(self: Frontier, queued: Collection[int]) -> FrontierState:
        queued = set(queued)
        return msgspec.structs.replace(found := state(self, queued), untrained=[each for each in found.untrained if each in queued])

    patch.setattr(Frontier, "state", ahead)


def acknowledgements_forgotten_at_a_reconnect(patch: pytest.MonkeyPatch) -> None:
    remove = LearnerDialogue._remove

    def removing(self: LearnerDialogue, actor: Actor, *rest: Any, **more: Any) -> list[learning.Action]:
        actor.mail.acknowledged = SequenceSet()
        return remove(self, actor, *rest, **more)

    patch.setattr(LearnerDialogue, "_remove", removing)


def damage_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment, "_checksum", lambda *_: 0)


def a_torn_tail_is_used(patch: pytest.MonkeyPatch) -> None:
    def frame_at(data: bytes, position: int, salt: int, expected: int) -> segment.Frame | None:
        if position + segment.FRAME_BYTES > len(data):
            return None
        _, size, sequence, number = segment._HEAD.unpack_from(data, position)
        end = min(position + segment.FRAME_BYTES + size, len(data))
        return segment.Frame(sequence, sequence - number, position, end) if sequence >= expected else None

    patch.setattr(segment, "_frame_at", frame_at)


def stale_pairs_train(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Intake, "_lag", lambda *_: 0)


def given_up_weights_count_as_ancestors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Intake, "_is_ancestor", lambda *_: True)


def what_rolled_back_weights_sampled_is_fresh(patch: pytest.MonkeyPatch) -> None:
    set_aside = Intake.set_aside
    patch.setattr(Intake, "set_aside", lambda self, groups, _: set_aside(self, groups, 0))


def the_journal_is_freed_too_far(patch: pytest.MonkeyPatch) -> None:
    free = Journal.free_below
    patch.setattr(Journal, "free_below", lambda self, _: free(self, self.durable))


def batches_are_put_together_anew(patch: pytest.MonkeyPatch) -> None:
    def again(self: Intake, ordinals: Sequence[int], learner_step: int) -> Batch:
        self._queue = deque(sorted(self._queue, key=lambda item: -item.result.ordinal))
        batch = self.take(len(ordinals), learner_step)
        assert batch is not None, "no batch to take again"
        return batch

    patch.setattr(Intake, "take_again", again)


def queued_groups_are_not_of_the_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Intake, "queued", property(lambda self: 0))


def capacity_is_ignored(patch: pytest.MonkeyPatch) -> None:
    grant = LearnerDialogue._grant

    def granting(self: LearnerDialogue, now_s: float) -> list[learning.Action]:
        for actor in self.actors.values():
            actor.capacity_groups += 1
        actions = grant(self, now_s)
        for actor in self.actors.values():
            actor.capacity_groups -= 1
        return actions

    patch.setattr(LearnerDialogue, "_grant", granting)


def held_out_ordinals_are_not_noted(patch: pytest.MonkeyPatch) -> None:
    note = Logbook.note

    def noting(self: Logbook, record: Record) -> None:
        if not isinstance(record, HeldOut):
            note(self, record)

    patch.setattr(Logbook, "note", noting)


def a_silent_actor_keeps_its_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dialogue, "SILENT_HEARTBEATS", 1 << 40)
    patch.setattr(LearnerDialogue, "_expire", lambda self, ordinal: None)


def rollbacks_are_decided_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(simulated, "fold", lambda life, records: replace(history.fold(life, records), rollbacks={}))


def a_checkpoint_needs_what_the_disk_refused(patch: pytest.MonkeyPatch) -> None:
    def position(self: Logbook, untrained: Collection[int]) -> tuple[int, int]:
        self.commit()
        kept = set(untrained)
        self._sequences = {ordinal: sequence for ordinal, sequence in self._sequences.items() if ordinal in kept}
        return self._journal.durable, min(self._sequences.values(), default=self._journal.durable + 1)

    patch.setattr(Logbook, "position", position)


MUTATIONS: list[Mutation] = [
    acknowledged_before_the_commit,
    acknowledged_though_the_disk_refused,
    written_and_not_synced,
    every_result_is_the_first,
    a_life_forgets_what_is_settled,
    epochs_begin_anew,
    an_expired_lease_keeps_its_epoch,
    an_expired_lease_is_forgotten,
    a_cursor_ahead_of_the_queue,
    a_cursor_ahead_of_the_leases,
    acknowledgements_forgotten_at_a_reconnect,
    a_torn_tail_is_used,
    damage_is_not_seen,
    stale_pairs_train,
    given_up_weights_count_as_ancestors,
    what_rolled_back_weights_sampled_is_fresh,
    the_journal_is_freed_too_far,
    batches_are_put_together_anew,
    queued_groups_are_not_of_the_budget,
    capacity_is_ignored,
    held_out_ordinals_are_not_noted,
    a_silent_actor_keeps_its_place,
    rollbacks_are_decided_anew,
    a_checkpoint_needs_what_the_disk_refused,
]
