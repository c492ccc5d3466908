"""Actors and learners come and go for weeks, and what each remembers of the others stays small."""

from __future__ import annotations

import random

import pytest

from protocol.dialogue import actor_events as acting
from protocol.dialogue import departed
from protocol.dialogue.departed import Departed, Mail
from protocol.dialogue.learner import LearnerDialogue
from tests.protocol.dialogue.network import DEADLINE_S, Network

ACTORS = 3
ROUNDS = 1500


def stretches(learner: LearnerDialogue) -> int:
    """Intervals of all that the learner keeps of messages."""
    mails = [actor.mail for actor in learner.actors.values()]
    mails += [mail for number in range(ACTORS) if (mail := learner.departed.get(f"rollout-{number}")) is not None]
    return sum(mail.received.intervals + mail.acknowledged.intervals for mail in mails)


@pytest.mark.parametrize("seed", range(3))
def test_restarts_and_rejoins_leave_nothing_behind(seed: int) -> None:
    chance, network = random.Random(seed), Network()
    most = 0
    for number in range(ACTORS):
        network.start(f"rollout-{number}")
    for _ in range(ROUNDS):
        event = chance.random()
        if event < 0.05:
            network.restart_learner()
        elif event < 0.1:
            network.start(f"rollout-{chance.randrange(ACTORS)}")
        elif event < 0.15:
            network.wait(DEADLINE_S)  # nobody hears of anybody
        elif event < 0.2:
            node = chance.choice(list(network.nodes.values()))
            network.act(node, acting.Leaving("drained"))
            network.start(node.dialogue.actor_id)
        network.offer_again()
        network.offer(ACTORS)
        for messages in (network.to_learner, network.to_actors):
            del messages[: chance.randrange(3) if len(messages) > 2 and chance.random() < 0.2 else 0]
        network.run(1.0)
        most = max(most, stretches(network.learner))
        del network.notices[:], network.sent[:]
    assert network.learner.settled.intervals <= 1 + len(network.learner.wanted)
    assert most <= 2 * 2 * (ACTORS + 2 * 3)  # both sets of each, and gaps for what was under way
    assert len(network.learner.departed) <= ACTORS
    assert network.learner.ledger.faults() == []


def test_a_learner_that_comes_back_hears_what_is_done() -> None:
    network = Network()
    node = network.start("rollout-0")
    network.offer(20)
    for _ in range(40):
        network.run()
    assert node.dialogue._sequence == 20
    network.restart_learner()
    network.wait(DEADLINE_S)
    network.deliver_all()
    network.offer(2)
    for _ in range(4):
        network.run()
    mail = network.learner.actors["rollout-0"].mail
    assert len(mail.received) == node.dialogue._sequence == 22
    assert (mail.received.intervals, mail.acknowledged.intervals) == (1, 1)


def test_only_the_last_ones_that_left_are_remembered() -> None:
    gone = Departed()
    for number in range(3 * departed.KEPT):
        gone.put(f"actor-{number}", Mail(number, ("host", number)))
        gone.put("again", Mail(number, ("host", number)))
    assert len(gone) == departed.KEPT
    assert gone.get("actor-0") is None
    last = gone.take("again")
    assert last is not None
    assert last.incarnation == 3 * departed.KEPT - 1
    assert gone.take("again") is None
