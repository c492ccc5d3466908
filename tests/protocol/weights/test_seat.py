"""How long a node goes on replacing couriers that end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from protocol.messages import PolicyVersion
from protocol.weights import seat
from protocol.weights.courier import Done, Failed, Order, Ready, Receive, Report
from protocol.weights.messages import Manifest, Seat
from protocol.weights.seat import ENDS, WITHIN_S, GroupSeat


class Scripted:
    """A courier without a process. It carries every order out."""

    made: list[Scripted]

    def __init__(self, _command: Sequence[str], told: Callable[[Report], None]) -> None:
        self._told = told
        self.made.append(self)
        told(Ready("cpu"))

    def tell(self, order: Order) -> None:
        if isinstance(order, Receive):
            self._told(Done())

    def end(self) -> None:
        self._told(Failed("the courier ended"))

    def abort(self, wait_s: float = 0.0) -> None:
        pass


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(seat, "time", made)
    return made


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> GroupSeat:
    Scripted.made = []
    monkeypatch.setattr(seat, "Courier", Scripted)
    return GroupSeat((), "fetcher-0:1", "here", lambda: False)


def end_one(member: GroupSeat) -> None:
    Scripted.made[-1].end()
    member.request  # noqa: B018 - it looks what the courier has said


def receive(member: GroupSeat, number: int) -> bool:
    member.take(Seat(number, 1, 1, 2))
    return member.receive(Path("file"), Manifest(PolicyVersion(0, number), [], 0, 1, [], "", broadcast=number))


def test_couriers_that_keep_ending_are_replaced_a_few_times(member: GroupSeat) -> None:
    for _ in range(ENDS - 1):
        end_one(member)
        assert member.request is not None
    end_one(member)
    assert member.given_up
    assert member.request is None
    assert len(Scripted.made) == ENDS, "the first one and those that came for it"
    assert not receive(member, 1)
    assert member.request is None
    assert len(Scripted.made) == ENDS
    member.close()


def test_those_that_end_now_and_then_are_always_replaced(member: GroupSeat, clock: Clock) -> None:
    for _ in range(3 * ENDS):
        clock.now_s += WITHIN_S / (ENDS - 1)
        end_one(member)
    assert not member.given_up
    assert len(Scripted.made) == 3 * ENDS + 1


def test_a_broadcast_between_shows_that_they_are_of_use(member: GroupSeat) -> None:
    for number in range(1, 3 * ENDS):
        end_one(member)
        if number % (ENDS - 1) == 0:
            assert receive(member, number)
    assert not member.given_up
