from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.bottleneck import ABOUT, Load, Stage, busy, limit


@pytest.mark.parametrize(
    ("load", "stage", "words"),
    [
        (
            Load(actors=2, sampling=0.59, for_leases=0.41, training=0.97, for_pairs=0.01),
            Stage.LEARNER,
            "the learner: busy 97% of its time, actors wait 41% for leases",
        ),
        (
            Load(actors=2, sampling=0.98, for_leases=0.01, training=0.44, for_pairs=0.55),
            Stage.GENERATION,
            "generation: actors busy 98%, the learner waits 55% for pairs",
        ),
        (
            Load(actors=2, sampling=0.3, reading=0.6, training=0.2, for_pairs=0.7),
            Stage.GENERATION,
            "generation: actors busy 90% (60% reading audio), the learner waits 70% for pairs",
        ),
        (
            Load(actors=2, sampling=0.5, for_rewards=0.45, scoring=0.99, training=0.4, for_pairs=0.6),
            Stage.REWARD,
            "reward: servers busy 99%, actors wait 45% for scores",
        ),
        (  # an actor with one answer under way waits for no scores, however many of its groups do
            Load(actors=8, sampling=0.98, for_rewards=0.02, scoring=1.0, training=0.3, for_pairs=0.7),
            Stage.REWARD,
            "reward: servers busy 100%, actors wait 2% for scores",
        ),
        (  # servers of somebody else, of which nobody tells how busy they are
            Load(actors=2, sampling=0.2, for_rewards=0.8, training=0.2, for_pairs=0.8),
            Stage.REWARD,
            "reward: actors wait 80% for scores",
        ),
        (
            Load(actors=2, sampling=0.3, for_weights=0.4, paused=0.1, training=0.4, publishing=0.3, for_pairs=0.2),
            Stage.PUSH,
            "push: publishing 30%, actors wait 40% for weights, pause 10%",
        ),
        (  # an evaluation is the actors' work
            Load(actors=2, sampling=1.0, training=0.1, for_evaluation=0.9),
            Stage.GENERATION,
            "generation: actors busy 100%, the learner waits 90% for an evaluation",
        ),
        (  # both are busy, and actors do not wait for the learner
            Load(actors=2, sampling=0.99, training=0.92, for_pairs=0.08),
            Stage.GENERATION,
            "generation: actors busy 99%, the learner waits 8% for pairs",
        ),
        (  # both are busy, and the learner does not wait for actors
            Load(actors=2, sampling=1.0, for_leases=0.0, training=0.99, for_pairs=0.0),
            Stage.LEARNER,
            "the learner: busy 99% of its time, actors wait 0% for leases",
        ),
        (  # a checkpoint is the learner's work
            Load(actors=2, sampling=0.3, for_leases=0.7, training=0.5, saving=0.5),
            Stage.LEARNER,
            "the learner: busy 100% of its time, actors wait 70% for leases",
        ),
        (
            Load(actors=0, training=0.0, for_pairs=1.0),
            Stage.GENERATION,
            "generation: no rollout actor works, the learner waits 100% for pairs",
        ),
    ],
)
def test_the_limit_is_named_with_the_figure_that_says_so(load: Load, stage: Stage, words: str) -> None:
    assert limit(load) == (stage, words)


def test_stages_that_take_turns_are_told_as_such() -> None:
    found = limit(Load(actors=1, sampling=0.5, for_leases=0.5, training=0.48, for_pairs=0.5))
    assert found is not None
    assert found.text.endswith("; they take turns")


def test_nothing_is_said_before_anything_is_known() -> None:
    assert limit(Load()) is None
    assert limit(Load(actors=2, sampling=1.0)) is None, "the learner tells nothing"
    assert limit(Load(training=0.0)) is None
    assert Load().actors_idle is None
    assert Load().learner_idle is None


shares = st.floats(0, 1)


@given(st.builds(Load, st.integers(0, 4), *[shares] * 6, st.none() | shares, *[shares] * 5))
def test_the_limit_is_about_the_busiest_stage(load: Load) -> None:
    found, worked = limit(load), busy(load)
    assert all(0 <= share <= 1 for share in worked.values())
    if load.actors and max(worked.values()) > 0:
        assert found is not None
        assert worked[found.stage] >= max(worked.values()) - ABOUT - 1e-9
        assert "%" in found.text


@given(st.builds(Load, st.just(2), *[shares] * 6, st.none() | shares, *[shares] * 5), shares)
def test_a_busier_limit_stays_the_limit(load: Load, more: float) -> None:
    """Another share of training does not take the learner's place away."""
    found = limit(load)
    if found is not None and found.stage is Stage.LEARNER and load.training is not None:
        again = limit(load._replace(training=min(1.0, load.training + more)))
        assert again is not None
        assert again.stage is Stage.LEARNER
