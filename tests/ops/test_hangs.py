from __future__ import annotations

from typing import Any

from configs.machines import FleetSection
from ops.hangs import HangWatch, Seen
from ops.orders import Hung, Phase

SECTION = FleetSection(hang_timeout_s=30, learner_hang_timeout_s=90, start_timeout_s=60)


def view(
    answered_s: float | None = 0.0, phase: Phase = Phase.RUNNING, role: str = "rollout", pid: int = 1, **status: Any
) -> dict[str, Seen]:
    return {f"{role}-0": Seen(role, phase, pid, answered_s, status)}


def first_verdict(watch: HangWatch, seen: Any, seconds: int = 200, start_s: int = 0) -> tuple[float, Hung] | None:
    """Looks once a second at what `seen` says of each; when it was said that one hangs, and what."""
    for now_s in range(start_s, start_s + seconds):
        if verdicts := watch.look(float(now_s), seen(float(now_s))):
            return now_s - start_s, verdicts[0]
    return None


def test_one_that_answers_and_waits_for_work_does_not_hang() -> None:
    assert first_verdict(HangWatch(SECTION), lambda now_s: view(now_s, quiet_s=0.0)) is None
    assert first_verdict(HangWatch(SECTION), lambda now_s: view(now_s)) is None


def test_one_that_does_not_answer_hangs() -> None:
    found = first_verdict(HangWatch(SECTION), lambda _: view(0.0))
    assert found == (31, Hung("rollout-0", "it has not answered for 31 s"))
    assert first_verdict(HangWatch(SECTION), lambda _: view(None)) is not None, "it never answered at all"


def test_one_whose_work_does_not_move_hangs_though_it_answers() -> None:
    found = first_verdict(HangWatch(SECTION), lambda now_s: view(now_s, quiet_s=max(0.0, now_s - 10)))
    assert found is not None
    assert found[0] == 41
    assert "work has not moved for 31 s" in found[1].reason


def test_the_learner_and_whoever_starts_have_longer() -> None:
    assert first_verdict(HangWatch(SECTION), lambda now_s: view(now_s, role="learner", quiet_s=now_s)) is not None
    assert first_verdict(HangWatch(SECTION), lambda now_s: view(now_s, role="learner", quiet_s=80.0)) is None
    for seen in (lambda now_s: view(None, Phase.BUILDING), lambda now_s: view(now_s, state="starting the engine", quiet_s=500.0)):
        found = first_verdict(HangWatch(SECTION), seen)
        assert found is not None
        assert found[0] == 61


def test_each_attempt_has_its_own_time() -> None:
    watch = HangWatch(SECTION)
    assert first_verdict(watch, lambda now_s: view(None, Phase.BUILDING), seconds=50) is None
    assert first_verdict(watch, lambda now_s: view(None, Phase.BUILDING, pid=2), seconds=50, start_s=50) is None
    assert first_verdict(watch, lambda now_s: view(now_s, pid=2), seconds=50, start_s=100) is None


def test_a_supervisor_that_stood_still_accuses_nobody() -> None:
    watch = HangWatch(SECTION)
    assert watch.look(0.0, view(0.0)) == []
    assert watch.look(10_000.0, view(0.0)) == [], "nobody was asked meanwhile"
    assert watch.look(10_001.0, view(10_000.5)) == []
