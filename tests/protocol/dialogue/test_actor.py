from __future__ import annotations

from collections.abc import Sequence

import pytest

from protocol.codec import PROTOCOL
from protocol.dialogue.actor import GREET_EVERY_S, RESEND_AFTER_S, ActorDialogue
from protocol.dialogue.actor_events import (
    Action,
    Connected,
    Ended,
    GivingBack,
    Granted,
    LearnerSaid,
    Leaving,
    Registered,
    Report,
    Resized,
    Results,
    Send,
    Tick,
    VersionKnown,
)
from protocol.messages import (
    Ack,
    Bye,
    GroupResults,
    Heartbeat,
    Hello,
    LearnerMessage,
    Lease,
    PolicyVersion,
    Refused,
    Welcome,
)
from tests.protocol import examples

HEARTBEAT_S = 2.0
VERSION = PolicyVersion(0, 3)


@pytest.fixture
def actor() -> ActorDialogue:
    return ActorDialogue("rollout-0", 2, 4, host="here", pid=17, engine="vllm")


def hear(actor: ActorDialogue, message: LearnerMessage, now_s: float = 0.0) -> list[Action]:
    return actor.handle(LearnerSaid(message, now_s))


def welcome(actor: ActorDialogue, now_s: float = 0.0, boot_id: str = "boot-1", version: PolicyVersion = VERSION) -> list[Action]:
    return hear(actor, Welcome("run", boot_id, version, HEARTBEAT_S), now_s)


def lease(actor: ActorDialogue, ordinals: Sequence[int], now_s: float = 0.0, epoch: int = 0) -> list[Action]:
    return hear(actor, Lease([examples.leased(ordinal, epoch) for ordinal in ordinals], VERSION, 60.0), now_s)


def finish(actor: ActorDialogue, ordinal: int, now_s: float = 0.0) -> list[Action]:
    return actor.handle(Results([examples.result(ordinal)], now_s))


def said(actions: Sequence[Action], kind: type) -> list[object]:
    return [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def sequences(actions: Sequence[Action]) -> list[int]:
    return [message.sequence for message in said(actions, GroupResults) if isinstance(message, GroupResults)]


def test_it_greets_until_it_is_welcomed(actor: ActorDialogue) -> None:
    assert said(actor.handle(Tick(0.0)), Hello) == [Hello("rollout-0", 2, 4, PROTOCOL, "here", 17, "vllm")]
    assert actor.handle(Tick(GREET_EVERY_S - 0.1)) == []
    assert len(said(actor.handle(Tick(GREET_EVERY_S)), Hello)) == 1
    assert [type(action) for action in welcome(actor, 1.5)] == [Registered, VersionKnown]
    assert said(actor.handle(Tick(3.0)), Hello) == []


def test_work_is_told_once_although_it_comes_twice(actor: ActorDialogue) -> None:
    welcome(actor)
    [granted] = lease(actor, [0, 1])
    assert isinstance(granted, Granted)
    assert [leased.ordinal for leased in granted.lease.groups] == [0, 1]
    assert lease(actor, [0, 1]) == []
    [granted] = lease(actor, [1, 2])
    assert isinstance(granted, Granted)
    assert [leased.ordinal for leased in granted.lease.groups] == [2]


def test_a_newer_version_is_told_once_wherever_it_is_said(actor: ActorDialogue) -> None:
    welcome(actor)
    assert hear(actor, Heartbeat(VERSION)) == []
    assert hear(actor, Heartbeat(PolicyVersion(0, 4))) == [VersionKnown(PolicyVersion(0, 4))]
    assert hear(actor, Ack(2, 0, PolicyVersion(0, 5))) == [VersionKnown(PolicyVersion(0, 5))]
    assert hear(actor, Heartbeat(PolicyVersion(0, 4))) == []
    assert hear(actor, Heartbeat(PolicyVersion(1, 0))) == [VersionKnown(PolicyVersion(1, 0))]
    newer = hear(actor, Lease([examples.leased(0)], PolicyVersion(1, 1), 60.0))
    assert [type(action) for action in newer] == [VersionKnown, Granted]


def test_results_are_sent_again_until_they_are_acknowledged(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1])
    assert sequences(finish(actor, 0)) == [0]
    assert sequences(finish(actor, 1, 1.0)) == [1]
    hear(actor, Heartbeat(), 4.0)
    assert sequences(actor.handle(Tick(RESEND_AFTER_S - 0.1))) == []
    assert sequences(actor.handle(Tick(RESEND_AFTER_S))) == [0]
    hear(actor, Ack(1, 0, VERSION), 5.5)
    assert set(actor.unacknowledged) == {0, 1}, "an acknowledgement of an earlier incarnation says nothing"
    hear(actor, Ack(2, 0, VERSION), 5.5)
    hear(actor, Heartbeat(), 9.0)
    assert sequences(actor.handle(Tick(2 * RESEND_AFTER_S))) == [1]
    hear(actor, Ack(2, 1, VERSION), 10.0)
    assert not actor.unacknowledged


def test_a_message_that_is_sent_again_is_unchanged(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0])
    first = said(finish(actor, 0), GroupResults)
    hear(actor, Heartbeat(), 4.0)
    assert said(actor.handle(Tick(RESEND_AFTER_S)), GroupResults) == first


def test_another_boot_id_gets_all_unacknowledged_results_at_once(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1, 2])
    for ordinal in range(3):
        finish(actor, ordinal)
    hear(actor, Ack(2, 1, VERSION))
    assert sequences(welcome(actor, 1.0)) == [], "the same learner has them or will be asked later"
    assert sequences(welcome(actor, 1.0, boot_id="boot-2")) == [0, 2]


def test_results_that_are_ready_before_the_welcome_are_sent_with_it(actor: ActorDialogue) -> None:
    assert finish(actor, 0) == []
    assert sequences(welcome(actor, 1.0)) == [0]


def test_a_silent_learner_is_greeted_again_with_what_is_held(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [4, 3], epoch=1)
    finish(actor, 4)
    assert said(actor.handle(Tick(3 * HEARTBEAT_S)), Hello) == []
    [hello] = said(actor.handle(Tick(3 * HEARTBEAT_S + 0.1)), Hello)
    assert isinstance(hello, Hello)
    assert hello.held == [(3, 1)]
    assert finish(actor, 3, 6.5) == [], "nothing is said to a learner that is away"


def test_a_learner_that_is_reached_anew_hears_at_once_what_is_held_and_what_it_may_have_missed(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [4, 3], epoch=1)
    assert sequences(finish(actor, 4)) == [0]
    [hello] = said(actor.handle(Connected(0.5)), Hello)
    assert isinstance(hello, Hello)
    assert hello.held == [(3, 1)]
    assert sequences(welcome(actor, 0.6)) == [0], "though the learner is the same one"
    assert sequences(welcome(actor, 0.7)) == []


def test_its_heartbeat_tells_what_it_was_told_to(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1])
    actor.handle(Report(PolicyVersion(0, 2), 55))
    assert said(actor.handle(Tick(HEARTBEAT_S)), Heartbeat) == [Heartbeat(PolicyVersion(0, 2), 2, 55, 4)]
    assert said(actor.handle(Tick(HEARTBEAT_S + 0.1)), Heartbeat) == []


def test_another_capacity_is_told_at_once_and_with_every_heartbeat(actor: ActorDialogue) -> None:
    assert actor.handle(Resized(0)) == [], "nobody knows it yet"
    [hello] = said(actor.handle(Tick(0.0)), Hello)
    assert isinstance(hello, Hello)
    assert hello.capacity_groups == 0
    welcome(actor)
    told = Heartbeat(None, 0, 0, 4)
    assert said(actor.handle(Resized(4)), Heartbeat) == [told]
    assert said(actor.handle(Tick(HEARTBEAT_S)), Heartbeat) == [told], "the first one may be lost"


@pytest.mark.parametrize(("message", "refused"), [(Refused("too old"), True), (Bye("too old"), False)])
def test_after_the_end_it_says_nothing_more(actor: ActorDialogue, message: LearnerMessage, refused: bool) -> None:
    welcome(actor)
    lease(actor, [0])
    assert hear(actor, message) == [Ended("too old", refused)]
    assert actor.handle(Tick(100.0)) == []
    assert lease(actor, [1]) == []


def test_it_says_goodbye(actor: ActorDialogue) -> None:
    welcome(actor)
    assert said(actor.handle(Leaving("drained")), Bye) == [Bye("drained")]
    assert actor.handle(Tick(100.0)) == []


def test_it_says_goodbye_to_nobody_who_does_not_know_it(actor: ActorDialogue) -> None:
    assert actor.handle(Leaving("drained")) == []
    assert actor.handle(Tick(0.0)) == []


def test_one_that_gives_all_back_and_leaves_says_goodbye_and_greets_no_more(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1])
    actor.handle(GivingBack(frozenset()))
    assert actor.handle(Leaving("drained")) == [Send(Bye("drained"))]
    assert actor.handle(Tick(0.1)) == []


def test_a_new_connection_is_greeted_at_once_and_what_was_on_its_way_goes_again(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1])
    assert sequences(finish(actor, 0, 1.0)) == [0]
    greeting = said(actor.handle(Connected(1.1)), Hello)
    assert [hello.held for hello in greeting if isinstance(hello, Hello)] == [[(1, 0)]]
    assert not actor.registered
    assert sequences(welcome(actor, 1.2)) == [0], "of the same boot too: the old connection may have lost it"
    assert sequences(actor.handle(Tick(1.3))) == []


def test_one_that_has_ended_greets_no_new_connection(actor: ActorDialogue) -> None:
    welcome(actor)
    hear(actor, Bye("completed"))
    assert actor.handle(Connected(1.0)) == []


def test_the_wait_before_results_go_again_doubles_up_to_a_limit(actor: ActorDialogue) -> None:
    welcome(actor)
    finish(actor, 0)
    sent_s = []
    for now_s in range(300):
        hear(actor, Heartbeat(VERSION), now_s)
        if sequences(actor.handle(Tick(now_s))):
            sent_s.append(now_s)
    assert sent_s == [5, 15, 35, 75, 135, 195, 255]
    hear(actor, Ack(2, 0, VERSION), 300.0)
    assert not actor.unacknowledged


def test_its_greeting_tells_which_messages_are_done(actor: ActorDialogue) -> None:
    def done_below(now_s: float) -> int:
        (hello,) = said(actor.handle(Tick(now_s)), Hello)
        assert isinstance(hello, Hello)
        return hello.done_below

    assert done_below(0.0) == 0
    welcome(actor)
    lease(actor, [0, 1, 2])
    for ordinal in range(3):
        finish(actor, ordinal)
    hear(actor, Ack(2, 0, VERSION))
    hear(actor, Ack(2, 2, VERSION))
    assert done_below(100.0) == 1, "1 is on its way"
    hear(actor, Ack(2, 1, VERSION), 100.0)
    assert done_below(200.0) == 3


def test_an_actor_that_gives_back_takes_no_more_and_says_so_until_it_is_heard(actor: ActorDialogue) -> None:
    welcome(actor)
    lease(actor, [0, 1, 2])
    assert actor.handle(GivingBack(frozenset({1}))) == []
    (hello,) = said(actor.handle(Tick(0.1)), Hello)
    assert isinstance(hello, Hello)
    assert (hello.capacity_groups, hello.held) == (0, [(1, 0)])
    assert len(said(actor.handle(Tick(0.1 + GREET_EVERY_S)), Hello)) == 1
    assert lease(actor, [0, 3]) == [], "it was on its way"
    assert sequences(finish(actor, 1)) == []
    assert sequences(welcome(actor, 2.0)) == [0]
    hear(actor, Ack(2, 0, VERSION), 2.0)
    assert not actor.unacknowledged
    assert not actor.held
