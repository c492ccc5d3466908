"""Wherever a life ends, the next one finds every group in one place: a model of frontier, intake and journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.training import LossSection
from learner.collate import TrainingGroup
from learner.frontier import EPOCHS_A_LIFE, Frontier, Source
from learner.history import History, fold
from learner.intake import Intake
from learner.journal.records import Began, HeldOut, Leased, Received, Record, RolledBack, Taken
from learner.life import Life
from protocol.messages import (
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    Purpose,
    Utterance,
)
from tests.learner.groups import completion

GROUPS = [InstructionGroup(f"g{number}", "", "yes", [Utterance("a", "0-0"), Utterance("b", "0-1")]) for number in range(5)]
HELD_OUT = [InstructionGroup(f"h{number}", "", "yes", [Utterance("a", "1-0")]) for number in range(2)]
BATCH, MAX_LAG, AHEAD = 2, 1, 3


class Run:
    """One life, by the learner's own pure parts; `journal` is what it has written."""

    def __init__(self, history: History, journal: list[Record], lineage: int) -> None:
        life = history.life
        self.journal, self.lineage, self.step = journal, lineage, life.step
        self.ancestry = life.ancestry
        self.frontier = Frontier([Source(GROUPS)], 0, shuffle=True, state=life.frontier)
        self.intake = Intake("group", LossSection(), MAX_LAG, lineage, 1000, life.counts(), life.ancestry)
        self.leased: list[LeasedGroup] = []
        self.offered: list[tuple[int, LeasedGroup]] = []
        """What actors have heard of, and how many records were durable by then."""
        self.wanted = {leased.ordinal: leased for leased in self.frontier.wanted()}
        self.late: list[LeasedGroup] = []
        """What actors still work on by leases of earlier lives."""
        self.trained: dict[int, list[int]] = {}
        for record in history.records:
            if isinstance(record, Received):
                leased = LeasedGroup(record.result.ordinal, 0, self.frontier.group_at(record.position or 0), Purpose.TRAIN, record.seed)
                assert leased.group.group_id == record.result.group_id
                self.intake.receive(leased, record.result)
            else:
                batch = self.intake.take(BATCH, record.step - 1)
                assert batch is not None
                assert [item.result.ordinal for item in batch.items] == record.ordinals
                self.train(batch.items)
        journal.append(Began(lineage, life.step, "", life.frontier.lease_epoch))

    def lease(self, count: int) -> None:
        taken = self.frontier.take(count)
        below = self.frontier.reserve(AHEAD)
        if below is not None:
            self.journal.append(Leased(below))
        self.leased += taken
        self.offered += [(len(self.journal), leased) for leased in taken]
        self.wanted |= {leased.ordinal: leased for leased in taken}

    def measure(self, _: int) -> None:
        leased = self.frontier.hold_out(HELD_OUT)
        self.journal.append(HeldOut(leased[0].ordinal, len(leased)))
        for each in leased:
            result = GroupResult(each.ordinal, 0, each.group.group_id, Outcome.EVALUATED, purpose=Purpose.EVALUATE)
            self.journal.append(Received(result))
            self.intake.receive(self.frontier.close(each.ordinal), result)

    def answer(self, which: int) -> None:
        if self.leased:
            self.take_in(self.leased.pop(which % len(self.leased)), which)

    def answer_late(self, which: int) -> None:
        """An actor answers a lease of an earlier life; what the learner does is what its dialogue does."""
        if not self.late:
            return
        leased = self.late.pop(which % len(self.late))
        wanted = self.wanted.get(leased.ordinal)
        if wanted is None:
            return  # answered since
        assert (wanted.group.group_id, wanted.seed) == (leased.group.group_id, leased.seed)
        self.leased = [each for each in self.leased if each.ordinal != leased.ordinal]
        self.take_in(wanted, which)

    def take_in(self, leased: LeasedGroup, which: int) -> None:
        del self.wanted[leased.ordinal]
        version = self.step - which % 3  # some are too old when their turn comes
        sampled = [completion(voice, step=max(0, version)) for voice in range(2)]
        sampled = [msgspec.structs.replace(each, spans=[self.span(each)]) for each in sampled]
        pairs = [] if which % 4 == 3 else [(1, 0)]
        result = msgspec.convert(
            {"ordinal": leased.ordinal, "lease_epoch": 0, "group_id": leased.group.group_id, "outcome": "pairs" if pairs else "tied"},
            GroupResult,
        )
        result = msgspec.structs.replace(result, completions=sampled, pairs=[_pair(*pair) for pair in pairs])
        if which == 5:
            result = GroupResult(leased.ordinal, 0, leased.group.group_id, Outcome.FILTERED)
        found = self.frontier.answered(leased.ordinal, Purpose.TRAIN)
        assert found == msgspec.structs.replace(leased, lease_epoch=self.frontier.state([]).lease_epoch - EPOCHS_A_LIFE)
        self.journal.append(Received(result, self.frontier.position_of(leased.ordinal), leased.seed))
        self.intake.receive(self.frontier.close(leased.ordinal), result)

    def span(self, each: Any) -> Any:
        span = each.spans[0]
        return msgspec.structs.replace(span, version=PolicyVersion(self.lineage, span.version.step))

    def take(self, _: int) -> None:
        batch = self.intake.take(BATCH, self.step)
        if batch is not None:
            self.journal.append(Taken(self.step + 1, [item.result.ordinal for item in batch.items]))
            self.train(batch.items)

    def train(self, items: list[TrainingGroup]) -> None:
        self.step += 1
        self.trained[self.step] = [item.result.ordinal for item in items]
        self.intake.trained()

    def life(self, sequence: int, needs: Callable[[set[int]], int]) -> Life:
        counts, queued = self.intake.counts, self.intake.queued_ordinals
        return Life(
            step=self.step, lineage=self.lineage, ancestry=self.ancestry, journal_at=sequence, journal_needs=needs(set(queued)),
            frontier=self.frontier.state(queued), trained=counts.trained, dropped=dict(counts.dropped),
        )  # fmt: skip

    def places(self) -> dict[str, list[int]]:
        self.intake.take(1 << 30, self.step)  # drops what is stale, and no more
        state = self.frontier.state([])
        return {
            "queued": self.intake.queued_ordinals,
            "to come": state.untrained,
            "ordinal": [state.ordinal],
            "held out": [each for pair in state.held_out for each in pair],
        }


def _pair(chosen: int, rejected: int) -> Any:
    from protocol.messages import PreferencePair

    return PreferencePair(chosen, rejected)


def needed(journal: list[Record]) -> Callable[[set[int]], int]:
    def first(queued: set[int]) -> int:
        found = [n for n, record in enumerate(journal, 1) if isinstance(record, Received) and record.result.ordinal in queued]
        return min(found, default=len(journal) + 1)

    return first


actions = st.lists(
    st.tuples(
        st.sampled_from(["lease", "lease", "answer", "answer", "answer", "answer_late", "answer_late", "take", "measure"]),
        st.integers(1, 7),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(before=actions, after=actions, last=actions, torn=st.integers(0, 60))
def test_wherever_a_life_ends_the_next_one_stands_there(
    before: list[tuple[str, int]], after: list[tuple[str, int]], last: list[tuple[str, int]], torn: int
) -> None:
    journal: list[Record] = []
    run = Run(History(Life()), journal, lineage=0)
    for name, number in before:
        getattr(run, name)(number)
    checkpoint = run.life(len(journal), needed(journal))
    known = len(journal)
    for name, number in after:
        getattr(run, name)(number)
    del journal[max(known, len(journal) - torn) :]  # a torn tail
    heard = [leased for durable, leased in run.offered if durable <= len(journal)]  # nobody hears of a lease before
    whole = torn == 0
    durable = {record.step for record in journal if isinstance(record, Taken)}
    trained, places = {step: ordinals for step, ordinals in run.trained.items() if step in durable}, run.places()
    for lineage, more in ((1, last), (2, [])):  # two lives that begin at the same checkpoint
        life = msgspec.structs.replace(checkpoint, lineage=lineage, ancestry={checkpoint.lineage: checkpoint.step})
        history = fold(life, [(n, record) for n, record in enumerate(journal, 1) if n >= life.journal_needs])
        run = Run(history, journal, lineage)
        answered = {record.result.ordinal for record in journal if isinstance(record, Received)}
        settled = history.life.settled()
        assert all((leased.ordinal in settled) == (leased.ordinal in answered) for leased in heard)
        run.late = [leased for leased in heard if leased.ordinal not in answered]
        assert {leased.ordinal for leased in run.late} <= run.wanted.keys()
        left = run.places()
        assert set(left["queued"]).isdisjoint(left["to come"])
        gone = {ordinal for ordinals in run.trained.values() for ordinal in ordinals}
        assert gone.isdisjoint(left["queued"])
        assert gone.isdisjoint(left["to come"])
        assert {**trained, **run.trained} == {**run.trained, **trained}, "a step trained other groups than before"
        if whole:
            assert max(run.trained, default=life.step) == max(trained, default=life.step)
            assert left["queued"] == places["queued"]
            # beside what had been leased, what may have been
            assert set(places["to come"]) <= set(left["to come"])
            assert set(left["to come"]) - set(places["to come"]) <= set(range(places["ordinal"][0], left["ordinal"][0]))
        filtered = [record.result for record in journal if isinstance(record, Received) and record.result.outcome is Outcome.FILTERED]
        assert run.intake.counts.dropped["filtered"] == len({result.ordinal for result in filtered})
        epochs = [record.lease_epoch for record in journal if isinstance(record, Began)]
        assert sorted(set(epochs)) == epochs
        for name, number in more:
            getattr(run, name)(number)
        assert run.intake.counts.dropped["invalid"] == 0
        heard += [leased for _, leased in run.offered]
        trained, places, whole = {**trained, **run.trained}, run.places(), True


def test_a_later_life_knows_where_the_weights_went_back_to() -> None:
    records = [RolledBack(3, None), RolledBack(7, 4), RolledBack(9, 8)]
    history = fold(Life(step=5), enumerate(records, 1))
    assert history.rollbacks == {7: records[1], 9: records[2]}
