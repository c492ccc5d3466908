"""Who is told what, whatever members and couriers do: no asker waits for ever, no round has an absent member."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.messages import PolicyVersion
from protocol.weights import rounds
from protocol.weights.messages import SeatRequest
from protocol.weights.rounds import Action, Broadcast, Dissolve, Form, Rounds, Tell

A, B = "fetcher-0:1", "fetcher-1:1"
NEWEST = PolicyVersion(0, 7)


@dataclass
class Table:
    """A store with its clock."""

    rounds: Rounds = field(default_factory=lambda: Rounds(100))
    now_s: float = 0.0
    actions: list[Action] = field(default_factory=list)
    questions: int = 0

    def hear(self, member: str, epoch: int | None = None) -> None:
        self.actions += self.rounds.heard(self.request(member, epoch), self.now_s)

    def ask(self, member: str, version: PolicyVersion = NEWEST, again: bool = False) -> None:
        self.questions += not again
        request = msgspec.structs.replace(self.request(member), question=self.questions)
        self.actions += self.rounds.ask(request, member.encode(), version, self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.actions += self.rounds.tick(self.now_s)

    def request(self, member: str, epoch: int | None = None) -> SeatRequest:
        return SeatRequest(member, self.rounds.seat(member).epoch if epoch is None else epoch)

    def taken(self) -> list[Action]:
        found, self.actions = self.actions, []
        return found

    def ready(self, *members: str) -> None:
        for member in members:
            self.hear(member, 0)
        self.wait(rounds.SETTLE_S + 0.1)
        assert self.taken()[-1] == Form(len(members) + 1)
        self.rounds.listening(4711)
        self.rounds.joined()


def pulled(*members: str) -> list[Action]:
    return [Tell(member.encode(), 0) for member in members]


def reasons(actions: list[Action]) -> list[str]:
    return [action.reason for action in actions if isinstance(action, Dissolve)]


def test_all_that_ask_get_one_broadcast() -> None:
    table = Table()
    table.ready(A, B)
    assert {table.rounds.seat(member).rank for member in (A, B)} == {1, 2}
    table.ask(A)
    assert table.taken() == []
    table.ask(A, again=True)  # since nobody answered
    table.ask(B)
    told = table.taken()
    assert [type(action) for action in told] == [Tell, Tell, Broadcast]
    assert len({action.round for action in told if isinstance(action, Tell)} - {0}) == 1
    table.rounds.done()
    table.ask(A)
    assert table.taken() == pulled(A), "a version is broadcast once"
    table.ask(A, PolicyVersion(0, 8))
    assert table.taken() == []


def test_before_there_is_a_group_versions_are_pulled() -> None:
    table = Table()
    table.ask(A)
    assert table.taken() == pulled(A)


def test_a_question_that_was_answered_takes_part_in_nothing() -> None:
    """Who repeats it has an answer by then, and would be missing in a round."""
    table = Table()
    table.ready(A, B)
    table.ask(A)
    table.wait(rounds.GATHER_S + 0.1)
    assert table.taken() == pulled(A)
    table.ask(A, again=True)
    assert table.taken() == pulled(A)
    table.ask(B)
    assert table.taken() == []


def test_who_waits_alone_pulls_and_who_stays_away_is_left_out() -> None:
    table = Table()
    table.ready(A, B)
    for number in range(rounds.MISSES):
        table.ask(A, PolicyVersion(0, number))
        table.wait(rounds.GATHER_S + 0.1)
        assert table.taken()[:1] == pulled(A)
    table.wait(rounds.SETTLE_S + 0.1)
    assert table.taken() == [Form(2)], "a group without B"
    table.rounds.listening(1)
    table.rounds.joined()
    table.ask(B)
    assert table.taken()[-1] == Tell(B.encode(), 0)
    table.wait(rounds.SETTLE_S + 0.1)
    assert table.taken() == [Form(3)], "and with it, once it asks again"


@pytest.mark.parametrize("who", ["fetcher-1:2", "fetcher-2:1"])
def test_who_comes_or_comes_back_is_let_in(who: str) -> None:
    table = Table()
    table.ready(A, B)
    table.ask(A)
    table.hear(who, 0)
    told = table.taken()
    assert told[:1] == pulled(A)
    assert reasons(told) == [f"{who} came"]
    table.wait(rounds.SETTLE_S + 0.1)
    assert table.taken() == [Form(3 if who.startswith("fetcher-1") else 4)]


def test_a_broadcast_that_does_not_move_is_given_up() -> None:
    table = Table()
    table.ready(A)
    table.ask(A)
    table.wait(rounds.STALL_S - 1)
    table.rounds.moved(table.now_s)
    table.wait(rounds.STALL_S - 1)
    assert reasons(table.taken()) == []
    table.wait(1.1)
    assert reasons(table.taken()) == ["the broadcast does not move"]


def test_after_some_failures_in_a_row_there_is_no_group() -> None:
    table = Table()
    for number in range(rounds.FAILURES):
        table.ready(A)
        table.ask(A, PolicyVersion(0, number))
        table.rounds.done()
        table.hear(A, 0)  # it has lost its seat, though rank 0 saw no harm
        last = table.taken()[-1]
    assert isinstance(last, Dissolve)
    assert last.for_good
    table.wait(1000)
    table.ask(A)
    assert table.taken() == pulled(A)


def test_a_courier_that_does_not_even_start_is_not_tried_for_ever() -> None:
    rounds_ = Rounds(1)
    told = [action for _ in range(2 * rounds.FAILURES) for action in rounds_.failed("it ended", 1.0)]
    assert [action.for_good for action in told if isinstance(action, Dissolve)] == [False] * (rounds.FAILURES - 1) + [True]


def test_a_version_that_all_came_after_makes_good_for_failures() -> None:
    table = Table()
    step = 0
    for _ in range(2 * rounds.FAILURES):
        table.ready(A)
        for _ in range(2):
            step += 1
            table.ask(A, PolicyVersion(0, step))
            table.rounds.done()
        table.actions += table.rounds.failed("the courier ended", table.now_s)
        assert not any(action.for_good for action in table.taken() if isinstance(action, Dissolve))


class Everything(RuleBasedStateMachine):
    """Members come, ask, die and lose seats; couriers work or fail; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.step = Table(), 0
        self.waiting: dict[bytes, float] = {}

    members = st.sampled_from([f"fetcher-{node}:{life}" for node in range(3) for life in range(2)])

    @rule(member=members, epoch=st.sampled_from([None, 0]))
    def hear(self, member: str, epoch: int | None) -> None:
        self.table.hear(member, epoch)

    @rule(member=members, newer=st.booleans())
    def ask(self, member: str, newer: bool) -> None:
        self.step += newer
        self.waiting.setdefault(member.encode(), self.table.now_s)
        self.table.ask(member, PolicyVersion(0, self.step))

    @rule(seconds=st.sampled_from([0.5, 2.1, 11.0, 100.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.table.wait(seconds)

    @rule(well=st.booleans())
    def courier(self, well: bool) -> None:
        held, state = self.table.rounds, self.table.rounds.state
        if not well:
            self.table.actions += held.failed("it ended", self.table.now_s)
        elif state == "forming":
            held.listening(1)
            held.joined()
        elif state == "sending":
            held.done()

    @invariant()
    def everybody_is_told(self) -> None:
        actions = self.table.taken()
        told = [action for action in actions if isinstance(action, Tell)]
        for action in told:
            assert self.waiting.pop(action.peer, None) is not None, "nobody is told twice, or without a question"
        called = {action.peer.decode() for action in told if action.round}
        assert bool(called) == any(isinstance(action, Broadcast) for action in actions)
        if called and self.table.rounds.state == "sending":
            assert called == set(self.table.rounds._ranks)
        assert all(self.table.now_s - since_s <= 700 for since_s in self.waiting.values())
        if self.table.rounds.state != "ready":
            assert not self.waiting


Everything.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestEverything = Everything.TestCase
