from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ops.restarts import LONGEST_WAIT_S, Restarts


def test_pauses_grow_and_differ() -> None:
    restarts = Restarts(8, 1000.0, 1.0, random.Random(1))
    pauses = [restarts.grant("rollout-0", 0.0) for _ in range(8)]
    for number, pause_s in enumerate(pauses):
        assert pause_s is not None
        longest_s = min(LONGEST_WAIT_S, 2.0**number)
        assert longest_s / 2 <= pause_s <= longest_s
    assert restarts.grant("rollout-0", 0.0) is None
    first = [Restarts(1, 10.0, 1.0, random.Random(seed)).grant("rollout-0", 0.0) for seed in range(5)]
    assert len(set(first)) == 5, "those that fail together do not come back together"


def test_after_a_quiet_window_a_process_starts_anew() -> None:
    restarts = Restarts(2, 100.0, 1.0, random.Random(1))
    assert [restarts.grant("reward-0", now_s) is None for now_s in (0.0, 50.0, 99.0, 100.0, 101.0)] == [False, False, True, False, True]
    pause_s = restarts.grant("reward-0", 500.0)
    assert pause_s is not None
    assert pause_s <= 1.0


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0, 30)), max_size=60), st.integers(0, 4))
def test_no_window_holds_more_than_the_budget(failures: list[tuple[str, float]], budget: int) -> None:
    restarts, now_s = Restarts(budget, 100.0, 1.0, random.Random(1)), 0.0
    granted: dict[str, list[float]] = {"a": [], "b": []}
    for name, pause_s in failures:
        now_s += pause_s
        if restarts.grant(name, now_s) is not None:
            granted[name].append(now_s)
    for times in granted.values():
        for start_s in times:
            assert sum(start_s <= time_s < start_s + 100.0 for time_s in times) <= budget
