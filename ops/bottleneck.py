"""Which stage of the job limits it: generation, reward, learner or push. Pure.

The busiest stage is the limit. The shares are bounds rather than truths, for an actor samples as soon as one answer is under way, however
much room its engine has left; so of stages that are about equally busy it is the one that the others wait for most.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Stage(StrEnum):
    """What a pair goes through, and what its weights come back by."""

    GENERATION = "generation"
    REWARD = "reward"
    LEARNER = "learner"
    PUSH = "push"


ABOUT = 0.1
"""Stages whose shares differ by no more than this are about equally busy."""
SLIGHT = 0.05
"""A smaller share is not worth a word."""
SATURATED = 0.9
"""Reward servers that score for this share of their time have no room left."""
FULL = 0.7
"""Where the busiest stage works less, no stage is full: they wait for each other."""


class Load(NamedTuple):
    """Shares of the recent time, from 0 to 1; None where nobody says. Those of the actors are means over the ones that are no spares."""

    actors: int = 0
    """Rollout actors that tell."""
    sampling: float = 0.0
    """An answer is under way, pauses left out."""
    reading: float = 0.0
    """They read audio."""
    for_leases: float = 0.0
    for_weights: float = 0.0
    for_rewards: float = 0.0
    """They have nothing to sample, and wait for these."""
    paused: float = 0.0
    """Generation stands still while a policy version is applied."""
    scoring: float | None = None
    """Reward servers score; the mean of the run's own ones."""
    training: float | None = None
    """The learner trains."""
    saving: float = 0.0
    """It writes a checkpoint."""
    publishing: float = 0.0
    for_pairs: float = 0.0
    for_evaluation: float = 0.0
    """It waits for these."""

    @property
    def actors_idle(self) -> float | None:
        """Share that the actors had nothing to sample."""
        waits = self.reading, self.for_leases, self.for_weights, self.for_rewards
        return min(1.0, sum(waits)) if self.actors else None

    @property
    def learner_idle(self) -> float | None:
        """Share that the learner waited."""
        return min(1.0, self.for_pairs + self.for_evaluation) if self.training is not None else None


class Limit(NamedTuple):
    """The stage that limits the job, and the figure that says so."""

    stage: Stage
    text: str


def busy(load: Load) -> dict[Stage, float]:
    """Share of its time that each stage works. The push works where learner or actors stand still for it."""
    return {
        Stage.GENERATION: min(1.0, load.sampling + load.reading),
        Stage.REWARD: max(load.scoring or 0.0, load.for_rewards),
        Stage.LEARNER: min(1.0, (load.training or 0.0) + load.saving),
        Stage.PUSH: min(1.0, load.publishing + load.for_weights + load.paused),
    }


def limit(load: Load) -> Limit | None:
    """The present limit; None while the learner tells nothing, or nobody works."""
    shares = busy(load)
    highest = max(shares.values())
    if load.training is None:
        return None
    if not load.actors and load.learner_idle:
        return Limit(Stage.GENERATION, f"generation: no rollout actor works, {_learner_waits(load)}")
    if highest == 0:
        return None
    idle = load.learner_idle or 0.0
    waited = {
        Stage.LEARNER: load.for_leases,
        # an actor counts as busy while one answer is under way and many wait for scores, so full servers are what the learner waits for
        Stage.REWARD: max(load.for_rewards, idle if (load.scoring or 0.0) >= SATURATED else 0.0),
        Stage.GENERATION: idle,
        Stage.PUSH: shares[Stage.PUSH],
    }
    stage = max((stage for stage in waited if highest - shares[stage] <= ABOUT), key=lambda stage: waited[stage])
    rest = "" if highest >= FULL else "; they take turns"
    return Limit(stage, _told(stage, load, shares) + rest)


def _told(stage: Stage, load: Load, shares: dict[Stage, float]) -> str:
    match stage:
        case Stage.GENERATION:
            reading = f" ({load.reading:.0%} reading audio)" if load.reading >= SLIGHT else ""
            return f"generation: actors busy {shares[stage]:.0%}{reading}, {_learner_waits(load)}"
        case Stage.REWARD:
            waiting = f"actors wait {load.for_rewards:.0%} for scores"
            return f"reward: {waiting}" if load.scoring is None else f"reward: servers busy {load.scoring:.0%}, {waiting}"
        case Stage.LEARNER:
            return f"the learner: busy {shares[stage]:.0%} of its time, actors wait {load.for_leases:.0%} for leases"
        case Stage.PUSH:
            return f"push: publishing {load.publishing:.0%}, actors wait {load.for_weights:.0%} for weights, pause {load.paused:.0%}"


def _learner_waits(load: Load) -> str:
    if load.for_evaluation > load.for_pairs:
        return f"the learner waits {load.for_evaluation:.0%} for an evaluation"
    return f"the learner waits {load.for_pairs:.0%} for pairs"
