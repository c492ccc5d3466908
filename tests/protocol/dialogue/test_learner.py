from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from protocol.codec import PROTOCOL
from protocol.dialogue.learner import INTERVALS, LearnerDialogue
from protocol.dialogue.learner_events import Action, ActorSaid, Closing, Intake, Offer, Published, Send, Settled, Tick, Undelivered
from protocol.dialogue.sequences import SequenceSet
from protocol.messages import (
    Ack,
    ActorMessage,
    Bye,
    GroupResults,
    Heartbeat,
    Lease,
    LeasedGroup,
    PolicyVersion,
    Purpose,
    Refused,
    Welcome,
)
from tests.protocol import examples

HEARTBEAT_S = 2.0
DEADLINE_S = 30.0
VERSION = PolicyVersion(0, 3)


@pytest.fixture
def learner() -> LearnerDialogue:
    return LearnerDialogue("run", "boot-1", VERSION, HEARTBEAT_S, DEADLINE_S)


def say(learner: LearnerDialogue, message: ActorMessage, now_s: float = 0.0, peer: str = "rollout-0/0") -> list[Action]:
    return learner.handle(ActorSaid(peer.encode(), message, now_s))


def join(
    learner: LearnerDialogue, actor_id: str = "rollout-0", capacity: int = 2, now_s: float = 0.0, incarnation: int = 0
) -> list[Action]:
    return say(learner, examples.hello(actor_id, incarnation, capacity), now_s, f"{actor_id}/{incarnation}")


def offer(learner: LearnerDialogue, ordinals: Sequence[int], now_s: float = 0.0) -> list[Action]:
    return learner.handle(Offer([examples.leased(ordinal) for ordinal in ordinals], now_s))


def granted(actions: Sequence[Action]) -> dict[str, list[tuple[int, int]]]:
    """(ordinal, lease epoch) of every leased group, by peer."""
    found: dict[str, list[tuple[int, int]]] = {}
    for action in actions:
        if isinstance(action, Send) and isinstance(action.message, Lease):
            found.setdefault(action.peer.decode(), []).extend((leased.ordinal, leased.lease_epoch) for leased in action.message.groups)
    return found


def said(actions: Sequence[Action], kind: type) -> list[tuple[str, object]]:
    return [(action.peer.decode(), action.message) for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def intakes(actions: Sequence[Action]) -> list[Intake]:
    return [action for action in actions if isinstance(action, Intake)]


def test_an_actor_is_welcomed_with_the_latest_version(learner: LearnerDialogue) -> None:
    learner.handle(Published(PolicyVersion(0, 4)))
    assert said(join(learner), Welcome) == [("rollout-0/0", Welcome("run", "boot-1", PolicyVersion(0, 4), HEARTBEAT_S, PROTOCOL))]


def test_groups_are_leased_up_to_the_capacity_and_in_their_order(learner: LearnerDialogue) -> None:
    assert granted(offer(learner, range(5))) == {}
    assert granted(join(learner, capacity=2)) == {"rollout-0/0": [(0, 0), (1, 0)]}
    assert granted(say(learner, examples.results([1], 0))) == {"rollout-0/0": [(2, 0)]}


def test_groups_are_spread_over_the_actors(learner: LearnerDialogue) -> None:
    join(learner, "rollout-0", capacity=4)
    join(learner, "rollout-1", capacity=4)
    shares = granted(offer(learner, range(6)))
    assert {peer: len(groups) for peer, groups in shares.items()} == {"rollout-0/0": 3, "rollout-1/0": 3}


def test_a_lease_carries_the_latest_version_and_its_deadline(learner: LearnerDialogue) -> None:
    join(learner)
    learner.handle(Published(PolicyVersion(0, 9)))
    [(_, lease)] = said(offer(learner, [0]), Lease)
    assert isinstance(lease, Lease)
    assert (lease.policy_version, lease.deadline_s) == (PolicyVersion(0, 9), DEADLINE_S)


def test_an_evaluation_lease_is_a_lease(learner: LearnerDialogue) -> None:
    join(learner)
    leased = LeasedGroup(0, 0, examples.group(), Purpose.EVALUATE)
    [(_, lease)] = said(learner.handle(Offer([leased], 0.0)), Lease)
    assert isinstance(lease, Lease)
    assert lease.groups == [leased]


def test_a_result_of_another_group_under_the_same_ordinal_is_refused(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0])
    other = msgspec.structs.replace(examples.result(0), group_id="another")
    held_out = msgspec.structs.replace(examples.result(0), purpose=Purpose.EVALUATE)
    (intake,) = intakes(say(learner, GroupResults("rollout-0", 0, 0, [other, held_out])))
    assert intake.results == []
    assert learner.ledger.rejected == {"other_group": 2}
    (intake,) = intakes(say(learner, GroupResults("rollout-0", 0, 1, [examples.result(0)])))
    assert len(intake.results) == 1
    assert learner.ledger.faults() == []


def test_results_are_acknowledged_when_they_are_settled_and_not_before(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0, 1])
    actions = say(learner, examples.results([0, 1], 5))
    assert said(actions, Ack) == []
    assert intakes(actions) == [Intake("rollout-0", 0, 5, [examples.result(0), examples.result(1)])]
    learner.handle(Published(PolicyVersion(0, 9)))
    assert said(learner.handle(Settled("rollout-0", 0, 5)), Ack) == [("rollout-0/0", Ack(0, 5, PolicyVersion(0, 9)))]


def test_a_message_that_is_sent_again_is_a_duplicate_and_acknowledged_again_once_settled(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0])
    say(learner, examples.results([0], 0))
    assert say(learner, examples.results([0], 0)) == []
    learner.handle(Settled("rollout-0", 0, 0))
    assert [type(action.message) for action in say(learner, examples.results([0], 0)) if isinstance(action, Send)] == [Ack]
    assert (learner.ledger.unique, learner.ledger.duplicate) == (1, 2)


def test_a_lease_past_its_deadline_is_granted_again_and_the_first_outcome_wins(learner: LearnerDialogue) -> None:
    join(learner, "rollout-0")
    offer(learner, [0])
    join(learner, "rollout-1", now_s=1.0)
    now_s = 0.0
    actions: list[Action] = []
    while now_s <= DEADLINE_S:
        now_s += 1.0
        for name in ("rollout-0", "rollout-1"):
            say(learner, Heartbeat(), now_s, f"{name}/0")
        actions = learner.handle(Tick(now_s))
    assert now_s > DEADLINE_S
    assert list(granted(actions).values()) == [[(0, 1)]]
    assert (learner.ledger.expired, learner.ledger.outstanding) == (1, 1)
    late = say(learner, examples.results([0], 0), now_s, "rollout-0/0")
    assert intakes(late)[0].results == [examples.result(0)]
    other = say(learner, examples.results([0], 0, "rollout-1"), now_s, "rollout-1/0")
    assert intakes(other)[0].results == []
    assert (learner.ledger.unique, learner.ledger.duplicate, learner.ledger.outstanding) == (1, 1, 0)
    assert learner.ledger.faults() == []


def test_an_outcome_of_a_group_that_waits_to_be_granted_again_takes_it_off_the_list(learner: LearnerDialogue) -> None:
    join(learner, capacity=1)
    offer(learner, [0])
    say(learner, Bye(), 1.0)
    assert [leased.lease_epoch for leased in learner.offered] == [1]
    say(learner, examples.hello(capacity=1), 1.0)
    learner.handle(Undelivered(b"rollout-0/0", 1.0))
    assert [leased.lease_epoch for leased in learner.offered] == [2]
    say(learner, examples.hello(capacity=0), 1.0)
    assert intakes(say(learner, examples.results([0], 0), 1.0))[0].results == [examples.result(0)]
    assert not learner.offered
    assert learner.ledger.faults() == []


@pytest.mark.parametrize("lost", ["silent", "bye", "undeliverable", "restarted", "forgot"])
def test_work_of_an_actor_that_is_lost_is_granted_before_all_other_work(learner: LearnerDialogue, lost: str) -> None:
    join(learner, "rollout-0", capacity=2)
    offer(learner, range(4))
    match lost:
        case "silent":
            learner.handle(Tick(3 * HEARTBEAT_S))
            assert "rollout-0" in learner.actors
            learner.handle(Tick(3 * HEARTBEAT_S + 0.1))
        case "bye":
            say(learner, Bye("drained"), 1.0)
        case "undeliverable":
            learner.handle(Undelivered(b"rollout-0/0", 1.0))
        case "restarted":
            assert granted(join(learner, "rollout-0", capacity=0, incarnation=1)) == {}
        case "forgot":
            assert granted(join(learner, "rollout-0", capacity=0)) == {}
    assert granted(join(learner, "rollout-1", capacity=3, now_s=6.0)) == {"rollout-1/0": [(0, 1), (1, 1), (2, 0)]}
    assert learner.ledger.faults() == []


def test_an_actor_that_is_back_is_not_taken_for_the_one_that_was_lost(learner: LearnerDialogue) -> None:
    join(learner, capacity=1)
    offer(learner, [0])
    say(learner, examples.hello(capacity=1), 2.0)
    learner.handle(Undelivered(b"rollout-0/0", 1.0))
    assert list(learner.actors) == ["rollout-0"]
    learner.handle(Undelivered(b"rollout-0/0", 3.0))
    assert not learner.actors


def test_heartbeats_keep_an_actor(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0])
    for beat in range(1, 12):
        say(learner, Heartbeat(VERSION, 1, 10 * beat), beat * HEARTBEAT_S)
        learner.handle(Tick(beat * HEARTBEAT_S + 1.0))
    assert learner.actors["rollout-0"].generated_tokens == 110
    assert learner.actors["rollout-0"].applied == VERSION
    assert learner.ledger.expired == 0


def test_the_learner_beats_too(learner: LearnerDialogue) -> None:
    join(learner)
    assert said(learner.handle(Tick(HEARTBEAT_S - 0.1)), Heartbeat) == []
    assert said(learner.handle(Tick(HEARTBEAT_S)), Heartbeat) == [("rollout-0/0", Heartbeat(VERSION))]
    assert said(learner.handle(Tick(HEARTBEAT_S + 0.1)), Heartbeat) == []


def test_a_publication_is_announced_and_never_goes_back(learner: LearnerDialogue) -> None:
    join(learner)
    assert said(learner.handle(Published(PolicyVersion(0, 9))), Heartbeat) == [("rollout-0/0", Heartbeat(PolicyVersion(0, 9)))]
    learner.handle(Published(PolicyVersion(0, 8)))
    assert learner.version == PolicyVersion(0, 9)
    learner.handle(Published(PolicyVersion(1, 0)))
    assert learner.version == PolicyVersion(1, 0)


def test_a_spare_hears_of_versions_and_is_granted_work_once_it_has_room(learner: LearnerDialogue) -> None:
    join(learner, capacity=0)
    assert offer(learner, [0, 1, 2]) == []
    assert said(learner.handle(Published(PolicyVersion(0, 9))), Heartbeat) == [("rollout-0/0", Heartbeat(PolicyVersion(0, 9)))]
    assert granted(say(learner, Heartbeat(capacity_groups=2), 1.0)) == {"rollout-0/0": [(0, 0), (1, 0)]}
    assert say(learner, Heartbeat(capacity_groups=2), 1.5) == []
    say(learner, Heartbeat(capacity_groups=0), 2.0)
    assert granted(say(learner, examples.results([0], 0), 2.0)) == {}
    assert learner.actors["rollout-0"].held == {1}, "it keeps what it has"


def test_an_actor_that_reconnects_keeps_what_it_still_holds(learner: LearnerDialogue) -> None:
    join(learner, capacity=3)
    offer(learner, [0, 1])
    actions = say(learner, examples.hello(capacity=3, held=[(1, 0), (7, 0)]))
    assert granted(actions) == {"rollout-0/0": [(0, 1)]}
    assert learner.actors["rollout-0"].held == {0, 1}


def test_a_new_incarnation_holds_nothing_of_the_old_one(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0])
    actions = say(learner, examples.hello(incarnation=1, held=[(0, 0)]), peer="rollout-0/1")
    assert granted(actions) == {"rollout-0/1": [(0, 1)]}
    assert learner.ledger.expired == 1


def test_resends_are_recognised_over_a_reconnection(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0])
    say(learner, examples.results([0], 0))
    learner.handle(Tick(10 * HEARTBEAT_S))
    assert not learner.actors
    assert learner.handle(Settled("rollout-0", 0, 0)) == []
    join(learner, now_s=21.0)
    assert said(say(learner, examples.results([0], 0), 21.0), Ack) == [("rollout-0/0", Ack(0, 0, VERSION))]


def test_sequences_of_a_new_incarnation_begin_anew(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0, 1])
    say(learner, examples.results([0], 0))
    join(learner, incarnation=1)
    actions = say(learner, examples.results([1], 0, incarnation=1), peer="rollout-0/1")
    assert intakes(actions)[0].results == [examples.result(1)]


def test_a_lower_incarnation_is_refused_and_its_results_do_not_enter(learner: LearnerDialogue) -> None:
    join(learner, incarnation=4)
    offer(learner, [0])
    [(peer, refusal)] = said(join(learner, incarnation=3), Refused)
    assert peer == "rollout-0/3"
    assert isinstance(refusal, Refused)
    assert "4" in refusal.reason
    assert intakes(say(learner, examples.results([0], 0, incarnation=3), peer="rollout-0/3")) == []
    assert learner.ledger.rejected == {"unregistered": 1}
    assert learner.ledger.faults() == []


def test_a_second_process_of_one_incarnation_is_refused(learner: LearnerDialogue) -> None:
    first = msgspec.structs.replace(examples.hello("rollout-0", 4, 2), host="here", pid=1)
    say(learner, first)
    offer(learner, [0])
    assert said(say(learner, first, 1.0), Refused) == [], "it may greet again"
    [(_, refusal)] = said(say(learner, msgspec.structs.replace(first, pid=2), 2.0), Refused)
    assert isinstance(refusal, Refused)
    assert "process 1 on here" in refusal.reason
    assert learner.actors["rollout-0"].pid == 1
    assert said(say(learner, msgspec.structs.replace(first, pid=2, incarnation=5), 3.0), Refused) == []
    assert learner.actors["rollout-0"].pid == 2


def test_another_major_version_is_refused_with_both_versions(learner: LearnerDialogue) -> None:
    stranger = examples.hello()
    stranger.protocol = (2, 0)
    [(_, refusal)] = said(say(learner, stranger), Refused)
    assert isinstance(refusal, Refused)
    assert "2.0" in refusal.reason
    assert ".".join(map(str, PROTOCOL)) in refusal.reason
    assert not learner.actors


def test_another_minor_version_is_welcome(learner: LearnerDialogue) -> None:
    newer = examples.hello()
    newer.protocol = (1, 9)
    assert said(say(learner, newer), Welcome)


@pytest.mark.parametrize(
    ("message", "peer", "reason"),
    [
        (examples.results([7], 0), "rollout-0/0", "unknown_ordinal"),
        (examples.results([0], 0, "rollout-9"), "rollout-0/0", "foreign"),
        (examples.results([0], 0, incarnation=5), "rollout-0/0", "foreign"),
        (examples.results([0], 0, "rollout-9"), "rollout-9/0", "unregistered"),
    ],
)
def test_results_that_nobody_asked_for_are_rejected_and_counted(
    learner: LearnerDialogue, message: ActorMessage, peer: str, reason: str
) -> None:
    join(learner)
    offer(learner, [0])
    assert all(not intake.results for intake in intakes(say(learner, message, peer=peer)))
    assert learner.ledger.rejected == {reason: 1}
    assert learner.ledger.outstanding == 1
    assert learner.ledger.faults() == []


def test_after_closing_nothing_is_granted_and_everybody_is_told(learner: LearnerDialogue) -> None:
    join(learner, "rollout-0")
    join(learner, "rollout-1")
    assert said(learner.handle(Closing("completed")), Bye) == [("rollout-0/0", Bye("completed")), ("rollout-1/0", Bye("completed"))]
    assert granted(offer(learner, [0])) == {}
    late = join(learner, "rollout-2")
    assert granted(late) == {}
    assert [peer for peer, _ in said(late, Bye)] == ["rollout-2/0"]
    assert granted(learner.handle(Tick(1.0))) == {}


def test_leases_end_with_the_run_and_what_still_comes_counts(learner: LearnerDialogue) -> None:
    join(learner)
    offer(learner, [0, 1])
    learner.handle(Closing("completed"))
    assert (learner.ledger.outstanding, learner.ledger.expired) == (0, 2)
    assert len(intakes(say(learner, examples.results([0], 0)))[0].results) == 1
    assert (learner.ledger.unique, learner.ledger.settled) == (1, 0)
    assert learner.ledger.faults() == []


def test_a_connection_speaks_for_one_actor(learner: LearnerDialogue) -> None:
    offer(learner, [0, 1])
    join(learner, "rollout-0", capacity=1)
    say(learner, examples.hello("rollout-1"), peer="rollout-0/0")
    assert list(learner.actors) == ["rollout-1"]
    assert learner.actors["rollout-1"].held == {0, 1}, "what it held under its first name is granted again"
    assert learner.ledger.expired == 1
    assert learner.ledger.faults() == []


def test_messages_out_of_any_order_are_rejected(learner: LearnerDialogue) -> None:
    join(learner)
    for number in range(INTERVALS + 10):
        say(learner, GroupResults("rollout-0", 0, 2 * number, [examples.result(number)]))
    assert learner.actors["rollout-0"].mail.received.intervals == INTERVALS
    assert learner.ledger.rejected["scattered"] == 10
    assert learner.ledger.faults() == []


def test_groups_go_to_the_actors_with_the_most_room(learner: LearnerDialogue) -> None:
    for number, capacity in enumerate((1, 4, 2)):
        join(learner, f"rollout-{number}", capacity)
    shares = granted(offer(learner, range(9)))
    assert {peer: [ordinal for ordinal, _ in leased] for peer, leased in shares.items()} == {
        "rollout-1/0": [0, 1, 2, 5],
        "rollout-2/0": [3, 6],
        "rollout-0/0": [4],
    }
    assert len(learner.offered) == 2


def test_an_actor_that_leaves_finishes_what_it_keeps_and_is_granted_nothing(learner: LearnerDialogue) -> None:
    join(learner, "rollout-0", capacity=3)
    offer(learner, range(5))
    join(learner, "rollout-1", capacity=1)
    leaving = say(learner, examples.hello("rollout-0", capacity=0, held=[(1, 0)]), 1.0)
    assert granted(leaving) == {}
    assert [(leased.ordinal, leased.lease_epoch) for leased in learner.offered] == [(0, 1), (2, 1), (4, 0)]
    done = say(learner, examples.results([1], 0), 2.0)
    assert [result.ordinal for result in intakes(done)[0].results] == [1]
    assert granted(done) == {}
    assert granted(say(learner, examples.results([3], 0, "rollout-1"), 2.0, "rollout-1/0")) == {"rollout-1/0": [(0, 1)]}
    assert learner.ledger.faults() == []


# --- after a restart of the learner ---


@pytest.fixture
def restored() -> LearnerDialogue:
    """An earlier life leased the ordinals 0 to 5, and 0 and 3 have their outcome."""
    settled = SequenceSet(1)
    settled.add(3)
    wanted = [examples.leased(ordinal, 7) for ordinal in (1, 2, 4, 5)]
    return LearnerDialogue("run", "boot-2", VERSION, HEARTBEAT_S, DEADLINE_S, settled=settled, wanted=wanted)


def test_a_result_of_an_earlier_lifes_lease_is_the_first_outcome_before_it_is_offered_again(restored: LearnerDialogue) -> None:
    join(restored)
    (intake,) = intakes(say(restored, examples.results([3, 4, 9], 17)))
    assert [result.ordinal for result in intake.results] == [4]
    assert (restored.ledger.unique, restored.ledger.duplicate, restored.ledger.rejected) == (1, 1, {"unknown_ordinal": 1})
    again = restored.handle(Offer([examples.leased(ordinal, 7) for ordinal in (1, 2, 4, 5)], 1.0))
    assert granted(again) == {"rollout-0/0": [(1, 7), (2, 7)]}
    assert [leased.ordinal for leased in restored.offered] == [5]
    assert restored.ledger.faults() == []


def test_a_result_of_an_earlier_lifes_lease_is_the_first_outcome_while_it_waits(restored: LearnerDialogue) -> None:
    join(restored, capacity=0)
    restored.handle(Offer([examples.leased(1, 7)], 1.0))
    assert len(intakes(say(restored, examples.results([1], 0)))[0].results) == 1
    assert not restored.offered
    other = msgspec.structs.replace(examples.result(2), group_id="another")
    assert intakes(say(restored, GroupResults("rollout-0", 0, 1, [other])))[0].results == []
    assert restored.ledger.rejected == {"other_group": 1}
    assert restored.ledger.faults() == []


def test_what_an_actor_has_begun_is_granted_to_it(restored: LearnerDialogue) -> None:
    join(restored, "rollout-0", capacity=4)
    say(restored, examples.hello("rollout-1", capacity=2, held=[(2, 0), (5, 1)]), peer="rollout-1/0")
    shares = granted(restored.handle(Offer([examples.leased(ordinal, 7) for ordinal in (1, 2, 4, 5)], 1.0)))
    assert shares == {"rollout-0/0": [(1, 7), (4, 7)], "rollout-1/0": [(2, 7), (5, 7)]}


def test_ordinals_of_groups_that_were_set_aside_leave_no_gap(restored: LearnerDialogue) -> None:
    join(restored)
    restored.handle(Offer([], 1.0, passed=[1, 2]))
    assert restored.settled.intervals == 1
    assert intakes(say(restored, examples.results([1], 0)))[0].results == []
    assert restored.ledger.duplicate == 1


def test_a_newer_incarnation_replaces_what_is_known_of_the_one_before(learner: LearnerDialogue) -> None:
    for incarnation in range(50):
        join(learner, incarnation=incarnation)
        say(learner, Bye(), peer=f"rollout-0/{incarnation}")
    assert len(learner.departed) == 1
    (refusal,) = said(join(learner, incarnation=48), Refused)
    assert "49" in str(refusal)
