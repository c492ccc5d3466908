"""Any order of loss, doubling, reordering, crashes of either side and silence keeps the promises of the dialogue."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.dialogue import actor_events as acting
from protocol.dialogue import learner_events as learning
from protocol.messages import Ack, Lease, PolicyVersion
from tests.protocol.dialogue.network import DEADLINE_S, HEARTBEAT_S, Network

ACTORS = ("rollout-0", "rollout-1", "rollout-2")
indices = st.integers(0, 1 << 16)


class Fleet(RuleBasedStateMachine):
    """Three actors, one learner, an unkind network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.said = 0
        self.epochs: dict[int, int] = {}

    @initialize(capacity=st.integers(1, 3))
    def begin(self, capacity: int) -> None:
        self.capacity = capacity
        self.network.start(ACTORS[0], capacity)

    @rule(count=st.integers(1, 4))
    def offer(self, count: int) -> None:
        self.network.offer(count)

    @rule(actor_id=st.sampled_from(ACTORS))
    def start_or_crash(self, actor_id: str) -> None:
        self.network.start(actor_id, self.capacity)

    @rule(actor_id=st.sampled_from(ACTORS))
    def leave(self, actor_id: str) -> None:
        node = self.network.nodes.get(actor_id)
        if node is not None:
            self.network.act(node, acting.Leaving("drained"))
            self.network.start(actor_id, self.capacity)

    @rule(actor_id=st.sampled_from(ACTORS), spare=st.booleans())
    def rest(self, actor_id: str, spare: bool) -> None:
        node = self.network.nodes.get(actor_id)
        if node is not None:
            self.network.act(node, acting.Resized(0 if spare else self.capacity))

    @rule()
    def restart_learner(self) -> None:
        self.network.restart_learner()

    @rule()
    def offer_again(self) -> None:
        self.network.offer_again()

    @rule(actor_id=st.sampled_from(ACTORS), share=st.integers(0, 3))
    def give_back(self, actor_id: str, share: int) -> None:
        node = self.network.nodes.get(actor_id)
        if node is not None:
            node.working = dict(list(node.working.items())[:share])
            self.network.act(node, acting.GivingBack(frozenset(node.working)))

    @rule(index=indices)
    def finish(self, index: int) -> None:
        held = [(node, ordinal) for node in self.network.nodes.values() for ordinal in node.working]
        if held:
            self.network.finish(*held[index % len(held)])

    @precondition(lambda self: self.network.unsettled)
    @rule(index=indices)
    def settle(self, index: int) -> None:
        self.network.settle(self.network.unsettled[index % len(self.network.unsettled)])

    @precondition(lambda self: self.network.to_learner)
    @rule(index=indices, keep=st.booleans())
    def deliver_to_learner(self, index: int, keep: bool) -> None:
        self.network.deliver_to_learner(index % len(self.network.to_learner), keep=keep)

    @precondition(lambda self: self.network.to_actors)
    @rule(index=indices, keep=st.booleans())
    def deliver_to_actors(self, index: int, keep: bool) -> None:
        self.network.deliver_to_actors(index % len(self.network.to_actors), keep=keep)

    @rule()
    def deliver_everything(self) -> None:
        self.network.deliver_all()

    @rule(index=indices, up=st.booleans())
    def lose(self, index: int, up: bool) -> None:
        messages = self.network.to_learner if up else self.network.to_actors
        if messages:
            del messages[index % len(messages)]

    @rule(seconds=st.sampled_from([0.1, HEARTBEAT_S, 4 * HEARTBEAT_S, 6.0, DEADLINE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.network.wait(seconds)

    @rule()
    def publish(self) -> None:
        latest = self.network.learner.version
        self.network.decide(learning.Published(PolicyVersion(0, latest.step + 1)))

    # --- what holds at all times ---

    @invariant()
    def the_ledger_balances(self) -> None:
        assert self.network.learner.ledger.faults() == []

    @invariant()
    def every_ordinal_enters_once(self) -> None:
        ordinals = [result.ordinal for result in self.network.entered]
        assert len(ordinals) == len(set(ordinals)) == self.network.learner.ledger.unique

    @invariant()
    def every_group_is_in_one_place(self) -> None:
        learner = self.network.learner
        waiting = [leased.ordinal for leased in learner.offered]
        entered = [result.ordinal for result in self.network.entered]
        owed = {leased.ordinal for leased in self.network.owed} - set(entered)
        assert sorted([*waiting, *learner.open, *owed, *entered]) == list(range(self.network.offered))
        assert sorted([*learner.wanted, *entered]) == list(range(self.network.offered))
        assert learner.ledger.outstanding == len(learner.open)

    @invariant()
    def nobody_holds_more_than_it_can(self) -> None:
        learner = self.network.learner
        for actor in learner.actors.values():
            assert len(actor.held) <= self.capacity
            assert actor.held == {ordinal for ordinal, lease in learner.open.items() if lease.actor_id == actor.actor_id}
        assert {lease.actor_id for lease in learner.open.values()} <= set(learner.actors)

    @invariant()
    def the_learner_keeps_its_word(self) -> None:
        for peer, message in self.network.sent[self.said :]:
            actor_id, _, incarnation = peer.decode().partition("/")
            if isinstance(message, Ack):
                assert (actor_id, int(incarnation), message.sequence) in self.network.settled
            if isinstance(message, Lease):
                for leased in message.groups:
                    assert leased.lease_epoch > self.epochs.get(leased.ordinal, -1)
                    self.epochs[leased.ordinal] = leased.lease_epoch
        self.said = len(self.network.sent)

    def teardown(self) -> None:
        """When the network is good again, everything gets through."""
        network = self.network
        if not network.nodes:
            return
        for node in network.nodes.values():
            network.act(node, acting.Resized(self.capacity))
            network.to_learner.clear()  # the next heartbeat says it again
        network.offer_again()
        for name, node in list(network.nodes.items()):
            if node.dialogue.capacity_groups == 0:
                network.run()  # what it has finished gets through, and then it leaves
                network.act(node, acting.Leaving("drained"))
                network.start(name, self.capacity)
        for _ in range(120 + network.offered):
            network.run()
        assert len(network.entered) == network.offered
        assert not network.learner.open
        assert not network.learner.offered
        assert all(not node.dialogue.unacknowledged for node in network.nodes.values())
        assert all(node.dialogue.version == network.learner.version for node in network.nodes.values())
        assert network.learner.ledger.faults() == []


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
