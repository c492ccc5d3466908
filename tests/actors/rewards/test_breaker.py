import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rewards.breaker import COOLDOWN_MAX_S, COOLDOWN_S, FAILURES, Breaker, State

EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "succeed", "fail", "decisive", "abandon"]), st.floats(0, 40), st.floats(0, 1), st.integers(0, 5)),
    max_size=60,
)


@given(EVENTS)
def test_any_history_keeps_the_rules(events: list[tuple[str, float, float, int]]):
    breaker, now_s = Breaker(), 0.0
    flying: list[tuple[int, bool, int]] = []
    openings = 0
    for what, passed_s, spread, which in events:
        now_s += passed_s
        before = breaker.state(now_s)
        probes = [begun for begun, probe, epoch in flying if probe and epoch == openings]
        assert breaker.admits(now_s) == (before is State.CLOSED or (before is State.HALF_OPEN and not probes))
        if what == "ask":
            if breaker.admits(now_s):
                flying.append((breaker.begin(now_s), before is State.HALF_OPEN, openings))
            else:
                with pytest.raises(ValueError, match="the breaker is"):
                    breaker.begin(now_s)
            continue
        if not flying:
            continue
        begun, _, epoch = flying.pop(which % len(flying))
        failures = breaker.failures
        if what == "succeed":
            breaker.succeed(begun)
        elif what == "abandon":
            breaker.abandon(begun)
        else:
            breaker.fail(begun, now_s, spread, decisive=what == "decisive")
        after = breaker.state(now_s)
        if epoch != openings:
            assert (after, breaker.failures) == (before, failures), "it began before the breaker opened"
        elif what == "succeed":
            assert after is State.CLOSED
        elif what == "abandon":
            assert after is before
        elif what == "decisive" or before is not State.CLOSED or failures + 1 >= FAILURES:
            assert after is State.OPEN
            assert COOLDOWN_S <= breaker.retry_s - now_s <= COOLDOWN_MAX_S * 1.5 + 1e-6
            openings += 1
        else:
            assert after is State.CLOSED
    for begun, *_ in flying:
        breaker.abandon(begun)
    assert breaker.admits(now_s + 1.5 * COOLDOWN_MAX_S + 1e-3), "it never shuts a server out for good"


def test_each_failed_probe_doubles_the_cooldown():
    breaker, now_s, pauses = Breaker(), 0.0, []
    breaker.fail(breaker.begin(now_s), now_s, 0.0, decisive=True)
    for _ in range(7):
        pauses.append(breaker.retry_s - now_s)
        now_s = breaker.retry_s
        breaker.fail(breaker.begin(now_s), now_s, 0.0, decisive=False)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    now_s = breaker.retry_s
    breaker.succeed(breaker.begin(now_s))
    breaker.fail(breaker.begin(now_s), now_s, 0.0, decisive=True)
    assert breaker.retry_s - now_s == COOLDOWN_S


def test_a_success_in_between_clears_the_count():
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        for _ in range(FAILURES - 1):
            breaker.fail(breaker.begin(0.0), 0.0, 0.0, decisive=False)
        breaker.succeed(breaker.begin(0.0))
    assert breaker.state(0.0) is State.CLOSED
