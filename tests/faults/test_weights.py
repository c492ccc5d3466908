"""Policy versions on their way: little bandwidth, a store that dies, a bit that flips."""

from __future__ import annotations

from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.proxy import Proxy
from tests.faults.record import monotonic_s

SIZE_BYTES = 40_960
"""Of what a policy version carries, about."""


def pulling(drill: Drill, proxy: Proxy) -> None:
    """Wait for the middle of a pull."""
    start = proxy.down.passed_bytes
    drill.until(lambda: proxy.down.passed_bytes > start + SIZE_BYTES // 2, "half a policy version")


def test_results_flow_while_weights_come_slowly(drill: Drill, told: Told) -> None:
    with Proxy(drill.store_port) as proxy:
        drill.store_at = proxy.endpoint
        drill.begin()
        proxy.down.rate_bytes_s, slowed_s = 1.5 * SIZE_BYTES, monotonic_s()
        drill.until(lambda: len(drill.rows("applied", since_s=slowed_s, process="rollout-0")) >= 3, "versions at this rate")
        assert not drill.logged("actor silent", since_s=slowed_s)
        acked = len(drill.rows("acked", since_s=slowed_s))
        assert acked
        proxy.down.rate_bytes_s = 0.0
        recovery_s = drill.recovery_s(monotonic_s(), by="applied")
        drill.goes_on()
        drill.finish()
    told(9, f"versions come whole, {acked} acknowledgements meanwhile, nobody falls silent", recovery_s)


def test_a_store_that_dies_in_the_middle_of_a_pull_costs_time_alone(drill: Drill, told: Told) -> None:
    with Proxy(drill.store_port) as proxy:
        drill.store_at = proxy.endpoint
        drill.begin()
        proxy.down.rate_bytes_s = SIZE_BYTES
        published = len(drill.rows("published"))
        for _ in range(2):
            pulling(drill, proxy)
            drill.kill("weight_store-0")
            drill.start_again("weight_store-0")
        proxy.down.rate_bytes_s = 0.0
        recovery_s = drill.recovery_s(monotonic_s(), by="applied")
        drill.until(lambda: len(drill.rows("published")) > published + 2, "newer versions")
        drill.goes_on()
        drill.finish()
    told(10, "the pull goes on or moves to the next version; every version that is applied has the learner's digest", recovery_s)


def test_a_flipped_bit_is_never_applied(drill: Drill, told: Told) -> None:
    with Proxy(drill.store_port) as proxy:
        drill.store_at = proxy.endpoint
        drill.begin()
        recovery_s = 0.0
        while drill.metrics("fetcher-0").get("rba_weight_chunk_errors_total", 0) < 3:
            proxy.down.flip_at, flipped_s = proxy.down.passed_bytes + SIZE_BYTES // 2, monotonic_s()
            drill.until(lambda: proxy.down.flip_at is None, "the flip")
            recovery_s = max(recovery_s, drill.recovery_s(flipped_s, by="applied"))
        drill.goes_on()
        drill.finish()
    told(11, "the chunk is refused and asked for again; the old version serves meanwhile", recovery_s)
