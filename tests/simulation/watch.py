"""What holds at all times in a simulated run. A breach is an `AssertionError` that says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from learner.intake import Batch
from protocol.messages import REFERENCE, Lease, PolicyVersion, Purpose

if TYPE_CHECKING:
    from tests.simulation.learner import Checkpoint, Learner, Weights
    from tests.simulation.world import World


class Watch:
    """Remembers over all lives of a run what was said and done, and compares."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.acked: set[int] = set()
        """Ordinals that the learner has acknowledged an outcome of."""
        self.epochs: dict[int, int] = {}
        """The last lease epoch of each ordinal."""
        self.groups: dict[int, str] = {}
        """Ids of the groups that were trained, by ordinal."""
        self.steps: dict[int, tuple[int, ...]] = {}
        """Ordinals of the batch of each step."""
        self.applied: dict[int, bool] = {}
        self.reached: dict[int, Weights] = {}
        """Weights of each step."""
        self.versions: dict[PolicyVersion, Weights] = {}
        self.nonfinite = 0
        """How many of the next new steps have no finite loss."""

    def forget(self, checkpoint: tuple[int, Checkpoint]) -> None:
        """All but what a checkpoint knows is gone."""
        step, kept = checkpoint
        for known in (self.steps, self.applied, self.reached):
            for later in [number for number in known if number > step]:
                del known[later]
        self.acked &= kept.fates.keys()
        self.epochs.clear()
        self.groups.clear()

    # --- as it happens ---

    def leased(self, lease: Lease) -> None:
        for leased in lease.groups:
            last = self.epochs.get(leased.ordinal, -1)
            assert leased.lease_epoch > last, f"ordinal {leased.ordinal} is granted at epoch {leased.lease_epoch} after {last}"
            self.epochs[leased.ordinal] = leased.lease_epoch

    def published(self, learner: Learner, version: PolicyVersion) -> None:
        known = self.versions.setdefault(version, learner.weights)
        assert known == learner.weights, f"version {version} names two models: {known} and {learner.weights}"

    def trains(self, learner: Learner, number: int, batch: Batch) -> bool:
        """A step is taken. Returns whether its loss is finite."""
        ordinals = tuple(item.result.ordinal for item in batch.items)
        known = self.steps.setdefault(number, ordinals)
        assert known == ordinals, f"step {number} trained {known}, and trains {ordinals} now"
        before = {ordinal for _, trained in learner.weights for ordinal in trained}
        assert before.isdisjoint(ordinals), f"step {number} trains {ordinals} on weights that come from {before}"
        for item in batch.items:
            group = item.group.group_id
            assert self.groups.setdefault(item.result.ordinal, group) == group, f"ordinal {item.result.ordinal} was another group"
            for pair in item.result.pairs:
                for index in (pair.chosen, pair.rejected):
                    if index != REFERENCE:
                        for span in item.result.completions[index].spans:
                            self._is_fresh(learner, span.version)
        if number not in self.applied:
            self.applied[number] = not self.nonfinite
            self.nonfinite = max(0, self.nonfinite - 1)
        return self.applied[number]

    def _is_fresh(self, learner: Learner, version: PolicyVersion) -> None:
        lag = learner.step - version.step
        assert lag <= learner.config.learner.max_policy_lag, f"step {learner.step + 1} trains what version {version} sampled"
        theirs = self.versions[version]
        assert learner.weights[: len(theirs)] == theirs, f"{learner.weights} do not come from version {version}, {theirs}"

    def stepped(self, learner: Learner) -> None:
        known = self.reached.setdefault(learner.step, learner.weights)
        assert known == learner.weights, f"step {learner.step} gave {known}, and gives {learner.weights} now"

    def caught_up(self, learner: Learner) -> None:
        """A life stands where the one before it ended."""
        assert learner.step >= max(self.steps, default=0), f"step {max(self.steps)} was trained, this life goes on from {learner.step}"
        self.places(learner)

    def ends(self, learner: Learner) -> None:
        """The walk is over: all steps are taken, unless it was stopped."""
        if learner.stopping:
            return
        ledger = learner.link.dialogue.ledger
        assert learner.step == learner.config.learner.steps
        assert ledger.outstanding == 0, f"{ledger.outstanding} leases are out at the end"
        self.check()
        self.places(learner)

    # --- after every rule ---

    def check(self) -> None:
        learner = self._world.learner
        if learner is None:
            return
        exchange, dialogue = learner.exchange, learner.link.dialogue
        ledger, intake = dialogue.ledger, exchange.intake
        out, rejected = ledger.outstanding, ledger.rejected
        assert ledger.leased == ledger.settled + out + ledger.expired, ledger
        assert ledger.received == ledger.unique + ledger.duplicate + (sum(rejected.values()) if rejected else 0), ledger
        assert out == len(dialogue.open), f"{out} outstanding, {len(dialogue.open)} open"
        for actor in dialogue.actors.values():
            assert len(actor.held) <= actor.capacity_groups, f"{actor.actor_id} holds {actor.held}"
        if learner.catching_up or learner.closed:
            return
        counts, queued = intake.counts, intake.queued
        accounted = counts.trained + sum(counts.dropped.values()) + queued
        if ledger.unique != accounted:
            between = sum(len(arrived.results) for arrived in (*exchange._arrived, *learner.link.intakes) if arrived is not None)
            assert ledger.unique == accounted + between, f"unique {ledger.unique}, but {counts}, queued {queued}, between {between}"
        held = exchange.frontier.open_training + queued
        if held > learner.budget_groups:
            # What an earlier life had dropped as stale, behind its checkpoint, is queued again until the next batch is taken.
            # And what was sampled for an earlier life comes in beside what this one has leased.
            lag, began = intake._max_policy_lag, learner.life.frontier.lease_epoch
            held -= sum(item.result.lease_epoch < began or intake._lag(item, learner.step) > lag for item in intake._queue)
            assert held <= learner.budget_groups, f"{held} groups are out or queued: {self._world.describe()}"

    def places(self, learner: Learner) -> None:
        """Every position of the training stream is in one place, and everything that was acknowledged has a result."""
        frontier, intake = learner.exchange.frontier, learner.exchange.intake
        held_out = {ordinal for first, count in frontier._held_out for ordinal in range(first, first + count)}
        stream = set(range(frontier._ordinal)) - held_out
        out = [ordinal for ordinal, leased in frontier._open.items() if leased.purpose is Purpose.TRAIN]
        queued = [item.result.ordinal for item in (*intake._queue, *intake._in_training)]
        ended = [ordinal for ordinal in learner.fates if ordinal not in held_out]
        everywhere = [*out, *queued, *frontier._again, *ended]
        seen = set(everywhere)
        assert len(seen) == len(everywhere), f"in two places: {out=} {queued=} {list(frontier._again)=} {learner.fates=}"
        assert seen <= stream, f"{seen - stream} are not of the stream"
        for ordinal in stream - seen:
            group = frontier.group_at(frontier.position_of(ordinal)).group_id
            assert group in frontier._set_aside, f"ordinal {ordinal} is nowhere: {out=} {queued=} {list(frontier._again)=} {learner.fates=}"
        between = [result.ordinal for arrived in learner.exchange._arrived for result in arrived.results]
        between += [result.ordinal for arrived in learner.link.intakes if arrived is not None for result in arrived.results]
        lost = self.acked - held_out - {*queued, *ended, *between}
        # A group that is set aside is wanted from nobody: what still comes counts as a duplicate.
        lost = {each for each in lost if frontier.group_at(frontier.position_of(each)).group_id not in frontier._set_aside}
        assert not lost, f"the results of {lost} were acknowledged and are lost"
        settled = learner.link.dialogue.settled
        assert all(ordinal in settled for ordinal in (*queued, *ended)), "a result is there whose ordinal counts as open"
        again = set(frontier._again).difference(between)
        assert not any(ordinal in settled for ordinal in again), f"of {again} some are settled, and to be leased again"
