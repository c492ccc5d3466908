"""Networks that lose, delay, cut up and break off, between a rollout actor and the learner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.conftest import Told
from tests.faults.drill import Drill
from tests.faults.proxy import Proxy
from tests.faults.record import monotonic_s

THROUGH, BESIDE = 1, 0
"""Of the two actors, the one whose words pass the proxy, and the other one."""


@pytest.fixture
def proxy(drill: Drill) -> Iterator[Proxy]:
    """Between rollout-1 and the learner, in a job that runs; rollout-0 speaks to the learner as ever."""
    drill.answer_s = 0.05
    drill.begin(actors=1)
    with Proxy(drill.learner_port) as made:
        drill.learner_at = made.endpoint
        drill.start_actor(THROUGH)
        drill.until(lambda: drill.rows("acked", process="rollout-1"), "results through the proxy")
        yield made


def duplicates(drill: Drill) -> int:
    return int(drill.ledger()["duplicate"])


def test_a_black_hole_is_noticed_and_survived(drill: Drill, proxy: Proxy, told: Told) -> None:
    fallen_s, connections = monotonic_s(), proxy.accepted
    drill.until(lambda: drill.in_hand("rollout-1"), "work under way")
    proxy.black_hole(stalled=True)
    drill.until(lambda: drill.logged("actor silent", "rollout-1", fallen_s), "the learner notices")
    drill.until(lambda: drill.rows("greeted", since_s=fallen_s, process="rollout-1"), "the actor notices")
    drill.until(lambda: proxy.accepted > connections + 1, "it connects anew, in vain")
    drill.goes_on()
    proxy.black_hole(stalled=False)
    recovery_s = drill.recovery_s(monotonic_s(), process="rollout-1")
    drill.until(lambda: duplicates(drill), "what was sent in vain comes late, and counts as a duplicate")
    drill.goes_on()
    drill.finish()
    told(6, "both sides notice and connect anew; late results are counted duplicates", recovery_s)


def test_acknowledgements_that_are_lost_lead_to_duplicates_and_nothing_else(drill: Drill, proxy: Proxy, told: Told) -> None:
    before, connections = duplicates(drill), proxy.accepted
    drill.until(lambda: drill.in_hand("rollout-1"), "work under way")
    proxy.down.stalled = True
    fallen_s = monotonic_s()
    drill.until(lambda: drill.rows("sent", since_s=fallen_s, process="rollout-1"), "results without an answer")
    drill.until(lambda: drill.rows("greeted", since_s=fallen_s, process="rollout-1"), "the actor notices")
    drill.until(lambda: proxy.accepted > connections + 1, "it connects anew, in vain")
    drill.goes_on()
    proxy.down.stalled = False
    recovery_s = drill.recovery_s(monotonic_s(), process="rollout-1")
    drill.until(lambda: duplicates(drill) > before, "results that are sent again")
    drill.until(lambda: drill.metrics("learner-0").get("rba_results_duplicate_total", 0) > before, "the metric follows")
    drill.goes_on()
    drill.finish()
    told(7, "results are sent again; the duplicate counter rises, the ledger stays exact", recovery_s)


def test_a_slow_line_that_breaks_often_carries_everything(drill: Drill, proxy: Proxy, told: Told) -> None:
    """What it carries is compared with all credit in every round trip: a line that breaks needs two more to be greeted on."""
    slow = {"latency_s": 0.1, "jitter_s": 0.05, "slices": 40}
    proxy.up.become(**slow)
    proxy.down.become(**slow)
    whole = _groups_a_second(drill, 30)
    connections = proxy.accepted
    proxy.up.become(**slow, reset_share=0.02)
    proxy.down.become(**slow, reset_share=0.01)
    started_s = monotonic_s()
    drill.until(lambda: proxy.accepted > connections + 2, "connections that were reset")
    breaking, broken = _groups_a_second(drill, 15, since_s=started_s), proxy.accepted - connections
    ended_s = monotonic_s()
    proxy.up.become()
    proxy.down.become()
    recovery_s = drill.recovery_s(ended_s, process="rollout-1")
    drill.finish()
    bound = drill.config["rollout"]["capacity_groups"] / (0.2 + drill.answer_s)
    told(
        8,
        f"{whole / bound:.0%} of credit by round trip; {breaking / bound:.0%} where {broken} lines break in {ended_s - started_s:.0f} s",
        recovery_s,
    )


def _groups_a_second(drill: Drill, messages: int, since_s: float | None = None) -> float:
    """That are acknowledged to the actor behind the proxy, until so many of its messages are."""
    started_s = monotonic_s() if since_s is None else since_s

    def acked() -> list[dict[str, Any]]:
        return drill.rows("acked", since_s=started_s, process="rollout-1")

    drill.until(lambda: len(acked()) >= messages, "results through the proxy")
    return sum(len(row["ordinals"]) for row in acked()) / (monotonic_s() - started_s)
