from __future__ import annotations

import pytest

from actors.rollout.idle import Idle, IdleClock, idle_state


def test_an_actor_that_samples_is_not_idle_and_the_nearest_cause_counts() -> None:
    assert idle_state(sampling=1, reading=0, scoring=3, waiting=2) is None
    assert idle_state(sampling=0, reading=1, scoring=3, waiting=2) is Idle.AUDIO
    assert idle_state(sampling=0, reading=0, scoring=3, waiting=2) is Idle.WEIGHTS
    assert idle_state(sampling=0, reading=0, scoring=3, waiting=0) is Idle.REWARDS
    assert idle_state(sampling=0, reading=0, scoring=0, waiting=0) is Idle.LEASES
    assert idle_state(sampling=0, reading=0, scoring=0, waiting=0, spare=True) is Idle.SPARE
    assert idle_state(sampling=0, reading=0, scoring=1, waiting=0, spare=True) is Idle.REWARDS, "it finishes what it holds"


def test_seconds_add_up_by_reason() -> None:
    clock = IdleClock(10.0)
    clock.switch(None, 12.0)
    clock.switch(Idle.REWARDS, 15.0)
    clock.switch(None, 16.0)
    assert clock.seconds(20.0) == {Idle.LEASES: 2.0, Idle.WEIGHTS: 0.0, Idle.AUDIO: 0.0, Idle.REWARDS: 1.0, Idle.SPARE: 0.0}
    assert clock.share(20.0) == pytest.approx(0.3)
    clock.switch(Idle.LEASES, 20.0)
    assert clock.share(30.0) == clock.share(30.0) == pytest.approx(13 / 20)


def test_time_as_a_spare_is_no_share_of_the_work() -> None:
    clock = IdleClock(0.0, Idle.SPARE)
    assert clock.share(50.0) is None
    clock.switch(Idle.LEASES, 100.0)
    clock.switch(None, 101.0)
    assert clock.share(104.0) == pytest.approx(0.25)
