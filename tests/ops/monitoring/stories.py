"""Runs as Prometheus would see them: a value a minute of each series, as a function of the minute; None for none."""

from __future__ import annotations

from collections.abc import Callable

Value = Callable[[int], float | None]
Run = dict[str, Value]
MINUTES = 360

LEARNER, SUPERVISOR = 'role="learner", process="learner-0"', 'role="supervisor", process="supervisor-0"'
ACTOR, REWARD = 'role="rollout", process="rollout-0"', 'role="reward", process="reward-0"'
PROCESSES, QUARANTINED = (
    f'{name}{{role="{role}", process="supervisor-0"}}' for name, role in (("rba_processes", "rollout"), ("rba_quarantined", "reward"))
)
PHASE = {phase: f'rba_run_phase{{{SUPERVISOR}, phase="{phase}"}}' for phase in ("starting", "training", "evaluating", "stopping")}
REFUSED = f'rba_authentication_failures_total{{{LEARNER}, socket="pairs", reason="no_keys"}}'
ERRORS = f'rba_reward_errors_total{{{ACTOR}, kind="try_timeout"}}'


def up(who: str) -> str:
    return f'up{{job="rba", {who}}}'


def of(name: str, who: str = LEARNER, more: str = "") -> str:
    return f"{name}{{{who}{more}}}"


STEP, ACKED = of("rba_learner_last_step_timestamp_seconds"), of("rba_results_last_success_timestamp_seconds")
SAVED, FREE = of("rba_checkpoint_last_success_timestamp_seconds"), of("rba_disk_free_bytes")
TURNED = of("rba_supervisor_last_success_timestamp_seconds", SUPERVISOR)
STALE = of("rba_results_dropped_total", more=', reason="stale"')


def steady(value: float) -> Value:
    return lambda minute: value


def growing(a_minute: float, start: float = 0.0) -> Value:
    return lambda minute: start + a_minute * minute


def during(start: int, end: int, inside: Value, outside: Value) -> Value:
    return lambda minute: inside(minute) if start <= minute < end else outside(minute)


def stands(start: int, end: int, series: Value) -> Value:
    """It stays where it was for a while."""
    return during(start, end, lambda _: series(start), series)


def jumps(minute: int, by: float, over: int, series: Value) -> Value:
    """It grows by so much more, within so many minutes."""
    return lambda now: (series(now) or 0.0) + by * min(max(now - minute, 0) / over, 1.0)


def missing(start: int, end: int, series: Value) -> Value:
    return during(start, end, lambda _: None, series)


CLOCK = growing(60)
"""Time itself, which begins at 0: something has succeeded just now."""
HEALTHY: Run = {
    **{up(who): steady(1) for who in (LEARNER, ACTOR, REWARD, SUPERVISOR)},
    PHASE["training"]: steady(1),
    PHASE["evaluating"]: steady(0),
    of("rba_actors_wanted", SUPERVISOR): steady(1),
    of("rba_spare_actors", SUPERVISOR): steady(1),
    PROCESSES: steady(2),
    QUARANTINED: steady(0),
    of("rba_actors"): steady(2),
    STEP: CLOCK,
    ACKED: CLOCK,
    SAVED: CLOCK,
    TURNED: CLOCK,
    FREE: growing(-1e6, 500e9),
    of("rba_leases_granted_total"): growing(11),
    of("rba_leases_settled_total"): growing(10),
    of("rba_groups_leased"): growing(0.5),
    of("rba_leases_expired_total"): growing(0.5),
    of("rba_results_received_total"): growing(11),
    of("rba_results_unique_total"): growing(10),
    of("rba_results_duplicate_total"): growing(0.5),
    of("rba_results_rejected_total", more=', reason="unregistered"'): growing(0.5),
    of("rba_results_trained_total"): growing(9),
    STALE: growing(0.5),
    of("rba_results_queued"): growing(0.5),
    of("rba_nonfinite_steps_total"): steady(0),
    of("rba_checkpoint_failures_total"): steady(0),
    of("rba_journal_failed_commits_total"): steady(0),
    of("rba_policy_version"): growing(2),
    of("rba_policy_version", ACTOR): growing(2, -2),
    of("rba_completions_total", ACTOR, ', finish_reason="stop"'): growing(100),
    ERRORS: growing(1),
    **{of("rba_reward_bucket", ACTOR, f', le="{le}"'): growing(rate) for le, rate in (("0", 20), ("1", 80), ("+Inf", 100))},
    REFUSED: missing(0, 60, steady(3)),
}
"""A run on which nothing is wrong."""
TRAINING = PHASE["training"]


def ended(minute: int) -> Run:
    """The supervisor is gone, and Prometheus keeps its targets."""
    return {
        name: during(minute, MINUTES + 1, steady(0), values) if name.startswith("up{") else missing(minute, MINUTES + 1, values)
        for name, values in HEALTHY.items()
    }


def starting() -> Run:
    """For hours: its actors do not come."""
    idle = {of("rba_actors_wanted", SUPERVISOR): steady(4), PROCESSES: steady(0), of("rba_spare_actors", SUPERVISOR): steady(0)}
    return {up(SUPERVISOR): steady(1), PHASE["starting"]: steady(1), TRAINING: steady(0), **idle}


def stopping(minute: int) -> Run:
    """The actors have left, and the learner writes its checkpoint for hours."""

    def then(value: float, before: Value) -> Value:
        return during(minute, MINUTES + 1, steady(value), before)

    left = {name: then(0, HEALTHY[name]) for name in (TRAINING, PROCESSES, of("rba_actors"))}
    clocks = {name: stands(minute, MINUTES + 1, CLOCK) for name in (STEP, ACKED)}
    versions = {
        of("rba_policy_version", ACTOR): missing(minute, MINUTES + 1, growing(2, -2)),
        up(ACTOR): missing(minute, MINUTES + 1, steady(1)),
    }
    return {**HEALTHY, **left, **clocks, **versions, PHASE["stopping"]: then(1, steady(0))}


def evaluating(start: int, end: int) -> Run:
    """Training waits meanwhile."""
    phases = {TRAINING: during(start, end, steady(0), steady(1)), PHASE["evaluating"]: during(start, end, steady(1), steady(0))}
    return {**HEALTHY, **phases, STEP: stands(start, end, CLOCK)}


def restarted(minute: int) -> Run:
    """The learner begins to count anew."""
    from_zero = {
        name: values
        for name, values in HEALTHY.items()
        if LEARNER in name and ("_total" in name or name.startswith(("rba_groups", "rba_results_q")))
    }
    return {**HEALTHY, **{name: _anew(minute, values) for name, values in from_zero.items()}}


def _with_gaps(values: Value) -> Value:
    return lambda minute: None if minute % 20 == 19 else values(minute)


def _anew(minute: int, values: Value) -> Value:
    return lambda now: values(now - minute if now >= minute else now)


QUIET: dict[str, Run] = {
    "all is well": HEALTHY,
    "the run has ended": ended(60),
    "the run starts": starting(),
    "the run stops": stopping(60),
    "an evaluation": evaluating(60, 120),
    "an evaluation before a long step": {**evaluating(60, 120), STEP: stands(60, 135, CLOCK)},
    "long steps": {**HEALTHY, STEP: lambda minute: 60.0 * (minute - minute % 25), ACKED: lambda minute: 60.0 * (minute - minute % 25)},
    "large checkpoints, of which three are kept": {**HEALTHY, FREE: lambda minute: 1000e9 - 112e9 * min(minute // 30, 3)},
    "no rewards": {name: values for name, values in HEALTHY.items() if "rba_reward" not in name and 'role="reward"' not in name},
    "a scrape fails now and then": {name: values if name.startswith("up{") else _with_gaps(values) for name, values in HEALTHY.items()},
    "the learner starts again": restarted(60),
    "refused ones of long ago behind a gap": {**HEALTHY, REFUSED: missing(60, 85, growing(0.2))},
    "refused ones of a learner's earlier life": {**HEALTHY, REFUSED: lambda minute: 0.5 * minute if minute < 60 else 5.0},
}
"""Runs of which no alert may tell."""
