from __future__ import annotations

from typing import Any

import pytest

from ops.bottleneck import Stage
from ops.recent import EVERY_S, GONE_S, WINDOW_S, Recent
from ops.trends import EVERY_S as POINT_S
from ops.trends import POINTS, Trends


def actor(at_s: float, leases: float, rewards: float = 0.0, spare: float = 0.0, tokens: int = 0, paused: float = 0.0) -> dict[str, Any]:
    """What an actor says that is idle for these shares of its time from 0 s on."""
    seconds = {"leases": leases, "weights": 0.0, "audio": 0.0, "rewards": rewards, "spare": spare}
    idle = {what: share * at_s for what, share in seconds.items()}
    return {"idle_seconds": idle, "pause_seconds": paused * at_s, "generated_tokens": int(tokens * at_s)}


def learner(at_s: float, step: float, pairs: float) -> dict[str, Any]:
    return {"work_seconds": {"step": step * at_s, "pairs": pairs * at_s, "publish": (1 - step - pairs) * at_s}}


def watched(seconds: int, recent: Recent | None = None) -> Recent:
    found = recent or Recent()
    for at_s in range(seconds + 1):
        found.saw("learner-0", "learner", at_s, learner(at_s, 0.7, 0.2))
        found.saw("rollout-0", "rollout", at_s, actor(at_s, 0.4, tokens=100, paused=0.1))
        found.saw("rollout-1", "rollout", at_s, actor(at_s, 0.2, tokens=50))
        found.saw("rollout-2", "rollout", at_s, actor(at_s, 0.0, spare=1.0))
        found.saw("reward-0", "reward", at_s, {"busy_s": 0.25 * at_s, "items": 8 * at_s})
        found.saw("fetcher-0", "fetcher", at_s, {"pulls": 1})
    return found


ALL = {"learner-0", "rollout-0", "rollout-1", "rollout-2", "reward-0"}


def test_shares_are_means_over_the_actors_that_are_no_spares() -> None:
    found = watched(100).measured(100.0, ALL)
    assert found.load.actors == 2
    assert found.load.for_leases == pytest.approx(0.3)
    assert found.load.paused == pytest.approx(0.05)
    assert found.load.sampling == pytest.approx(0.65)
    assert found.load.scoring == pytest.approx(0.25)
    assert (found.load.training, found.load.for_pairs, found.load.publishing) == pytest.approx((0.7, 0.2, 0.1))
    assert found.rates == pytest.approx({"rollout-0": 100.0, "rollout-1": 50.0, "rollout-2": 0.0, "reward-0": 8.0})
    assert found.busy[Stage.LEARNER] == pytest.approx(0.7)
    assert found.limit is not None


def test_only_the_last_while_counts_and_little_is_kept_of_it() -> None:
    recent = watched(100)
    later = actor(100, 0.4, tokens=100)
    for at_s in range(101, 101 + int(WINDOW_S) + 3):
        recent.saw("rollout-0", "rollout", at_s, later)  # not idle any more, and no token either
    found = recent.measured(at_s, {"rollout-0"})
    assert found.load.for_leases == 0.0
    assert found.rates["rollout-0"] == 0.0
    assert len(recent._answers["rollout-0"][1]) <= WINDOW_S / EVERY_S + 2


def test_a_process_that_began_anew_counts_from_zero() -> None:
    recent = watched(100)
    for second in range(10):
        recent.saw("rollout-0", "rollout", 100 + second, actor(second, 0.9, tokens=10))
    found = recent.measured(110.0, {"rollout-0"})
    assert found.load.for_leases == pytest.approx(0.9)
    assert found.rates["rollout-0"] == pytest.approx(10.0)


def test_who_is_gone_or_silent_takes_no_part() -> None:
    assert watched(100).measured(100.0, {"learner-0", "rollout-1"}).load.for_leases == pytest.approx(0.2)
    assert watched(100).measured(100.0 + GONE_S + 1, ALL).load.actors == 0


def test_a_moment_says_nothing() -> None:
    found = watched(3).measured(3.0, ALL)
    assert found.limit is None
    assert found.rates == {}


def test_a_trend_has_the_mean_of_each_point_and_a_bound() -> None:
    trends = Trends()
    for second in range(int(POINT_S * (POINTS + 5)) + 1):
        trends.saw(float(second), {"reward": second % 2, "consistency": None, "unwatched": 1.0})
    found = trends.points()
    assert set(found) == {"every_s", "reward"}
    assert len(found["reward"]) == POINTS
    assert found["reward"][-1] == pytest.approx(0.5)
