"""The alerts. Each tells of one run, unhealthy in a way that somebody has to look at; docs/runbook.md has a paragraph on each.

Everything is said by `run`, for one Prometheus may watch several. What waits for work to move on counts only in a phase in which it should
(`rba_run_phase`), so that neither a start, an evaluation nor the end of a run is an alert. Prometheus keeps the targets of a run whose
supervisor has gone: what does not answer then is no alert either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ops.monitoring.limits import Limits, duration

TRAINING, WORKING, MISMATCH = "run:rba_training:bool", "run:rba_working:bool", "run:rba_ledger_mismatch:groups"
"""Recorded series: 1 while the run trains; 1 while it trains or evaluates; groups by which its ledgers do not add up."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, in Prometheus' terms."""

    name: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str
    expr: str
    hold_s: float

    @property
    def anchor(self) -> str:
        """Of its paragraph in docs/runbook.md."""
        return self.name.lower()


def records(limits: Limits) -> dict[str, str]:
    """Recording rules, by name."""
    gap = duration(limits.gap_s)
    identities = (
        ("rba_leases_granted_total", ("rba_leases_settled_total", "rba_groups_leased", "rba_leases_expired_total")),
        ("rba_results_received_total", ("rba_results_unique_total", "rba_results_duplicate_total", "rba_results_rejected_total")),
        ("rba_results_unique_total", ("rba_results_trained_total", "rba_results_dropped_total", "rba_results_queued")),
    )
    faults = (" - ".join([f"sum by (run) ({whole})", *(_or_none(part, whole) for part in parts)]) for whole, parts in identities)
    return {
        TRAINING: f'max by (run) (max_over_time(rba_run_phase{{phase="training"}}[{gap}]))',
        WORKING: f'max by (run) (max_over_time(rba_run_phase{{phase=~"training|evaluating"}}[{gap}]))',
        MISMATCH: "\n+ ".join(f"abs({fault})" for fault in faults),
    }


def _or_none(part: str, whole: str) -> str:
    """A counter by reasons has no series before the first of them."""
    return f"(sum by (run) ({part}) or 0 * sum by (run) ({whole}))"


def alerts(limits: Limits) -> list[Alert]:
    """All of them."""
    return [*_progress(limits), *_fleet(limits), *_training(limits), *_disk(limits)]


def _progress(limits: Limits) -> list[Alert]:
    window = duration(limits.window_s)
    return [
        Alert(
            "LearnerStalled",
            "critical",
            "The learner of {{ $labels.run }} takes no step",
            f"The run trains, and no optimiser step has ended for more than {duration(limits.stalled_s)}.",
            _silent("rba_learner_last_step_timestamp_seconds", limits.stalled_s),
            limits.hold_s,
        ),
        Alert(
            "NoPairsAcked",
            "critical",
            "No results of {{ $labels.run }} are acknowledged",
            f"The run trains, and no group result has been acknowledged for more than {duration(limits.unacked_s)}: "
            "no actor delivers, or the learner cannot make durable what they deliver.",
            _silent("rba_results_last_success_timestamp_seconds", limits.unacked_s),
            limits.hold_s,
        ),
        Alert(
            "LedgerMismatch",
            "critical",
            "The ledgers of {{ $labels.run }} do not add up",
            "{{ $value }} groups are missing, or counted twice.",
            f"{MISMATCH} > 0",
            limits.hold_s,
        ),
        Alert(
            "StalenessDropHigh",
            "warning",
            "{{ $labels.run }} throws away results that are too old",
            f"{{{{ $value | humanizePercentage }}}} of the last {window}'s results were sampled by weights that are too old to train on.",
            f'sum by (run) (rate(rba_results_dropped_total{{reason="stale"}}[{window}]))\n'
            f"/ sum by (run) (rate(rba_results_unique_total[{window}])) > {limits.stale_ratio:g}",
            limits.hold_s,
        ),
    ]


def _silent(metric: str, limit_s: float) -> str:
    """Nothing for `limit_s` in which the run has trained throughout: an evaluation before it is no silence."""
    limit = duration(limit_s)
    seen = f"max by (run) (max_over_time({metric}[{duration(4 * limit_s)}]))"
    trained = f"(min_over_time({TRAINING}[{limit}]) == 1 and on (run) ({TRAINING} offset {limit}) == 1)"
    return f"(time() - {seen} > {limit_s:g}) and on (run) {trained}\nor {trained} unless on (run) {seen}"


def _fleet(limits: Limits) -> list[Alert]:
    gap, window, behind = duration(limits.gap_s), duration(limits.window_s), duration(limits.behind_s)
    wanted, spares = _recent("rba_actors_wanted", gap), _recent("rba_spare_actors", gap)
    running, registered = _recent('rba_processes{role="rollout"}', gap), _recent("rba_actors", gap)
    ahead = _recent('rba_policy_version{role="learner"}', gap)
    held = f'max by (run, process) (last_over_time(rba_policy_version{{role="rollout"}}[{gap}]))'
    moved = f'max by (run, process) (changes(rba_policy_version{{role="rollout"}}[{behind}]))'
    long = duration(limits.actors_s + limits.behind_s)
    there, before = (
        f'max by (run, process) (min_over_time(up{{job="rba", role="rollout"}}[{gap}]{when})) == 1' for when in ("", f" offset {long}")
    )
    supervised = f'max by (run) (max_over_time(up{{role="supervisor"}}[{gap}])) == 1'
    return [
        Alert(
            "ActorCountLow",
            "warning",
            "{{ $labels.run }} has fewer rollout actors than it wants",
            f"{{{{ $value }}}} work, for more than {duration(limits.actors_s)}.",
            f"(({running} - {spares} < {wanted})\nor ({registered} - on (run) {spares} < on (run) {wanted}))\nand on (run) {WORKING} == 1",
            limits.actors_s,
        ),
        Alert(
            "WeightsLag",
            "warning",
            "{{ $labels.process }} of {{ $labels.run }} gets no new weights",
            f"It holds a policy version that is {{{{ $value }}}} steps old, and has applied none for {behind}.",
            f"({ahead} - on (run) group_right () {held}) > 0\nand on (run, process) {moved} == 0\nand on (run) {TRAINING} == 1\n"
            f"or ({there} and on (run, process) {before}) unless on (run, process) {held}\nand on (run) {TRAINING} == 1",
            limits.hold_s,
        ),
        Alert(
            "RewardServerErrors",
            "warning",
            "Reward requests of {{ $labels.run }} fail",
            f"{{{{ $value | humanize }}}} errors per sampled completion over {window}. Groups without scores make no pairs.",
            f'sum by (run) (rate(rba_reward_errors_total{{role="rollout"}}[{window}]))\n'
            f"/ sum by (run) (rate(rba_completions_total[{window}])) > {limits.reward_error_ratio:g}",
            limits.hold_s,
        ),
        Alert(
            "AuthFailures",
            "warning",
            "Strangers knock at {{ $labels.run }}'s socket {{ $labels.socket }}",
            f"{{{{ $value | humanize }}}} handshakes or messages without an allowed key within {window}, or since it was last looked at.",
            _grown("rba_authentication_failures_total", "run, socket", limits) + f" > {limits.refusals:g}",
            0.0,
        ),
        Alert(
            "TargetDown",
            "warning",
            "{{ $labels.role }} {{ $labels.process }} of {{ $labels.run }} does not answer",
            f"It has not answered for {duration(limits.hold_s)}, has failed too often and nobody stands in for it, or supervises no more.",
            f'(max by (run, role, process) (up{{job="rba", role!="supervisor"}}) == 0 and on (run) {supervised})\n'
            f'or (max by (run, role, process) (up{{job="rba", role="supervisor"}}) == 0 '
            f'and on (run) max by (run) (up{{job="rba", role!="supervisor"}}) == 1)\n'
            f"or max by (run, role) (last_over_time(rba_quarantined[{gap}])) > 0\n"
            f"or (time() - max by (run, role, process) (rba_supervisor_last_success_timestamp_seconds)) > {limits.gap_s:g}",
            limits.hold_s,
        ),
    ]


def _recent(series: str, gap: str) -> str:
    """The run's figure, also while a scrape or two fail."""
    return f"max by (run) (last_over_time({series}[{gap}]))"


def _grown(counter: str, by: str, limits: Limits) -> str:
    """By how much a counter has grown. `increase` does not see the first value of a series, nor what happens while scrapes fail; what is
    more than the last value before the window does not see what a process counted before it was started anew. The larger one holds.
    """
    window = duration(limits.window_s)
    rise = f"increase({counter}[{window}])"
    since = f"({counter} - last_over_time({counter}[{duration(limits.known_s)}] offset {window}) >= 0 or {counter})"
    return f"sum by ({by}) ({since} > {rise}\nor {rise}\nor {since})"


def _training(limits: Limits) -> list[Alert]:
    window, rewards, before = duration(limits.window_s), duration(limits.reward_window_s), duration(limits.reward_before_s)
    return [
        Alert(
            "NonFiniteSteps",
            "warning",
            "Steps of {{ $labels.run }} have no finite loss or gradient",
            f"{{{{ $value | humanize }}}} within {window}; their batches are left out.",
            f"sum by (run) (increase(rba_nonfinite_steps_total[{window}])) > 0",
            0.0,
        ),
        Alert(
            "RewardCollapse",
            "warning",
            "Rewards of {{ $labels.run }} have collapsed",
            f"Half of the last {rewards}'s rewards are at most {{{{ $value | humanize }}}}, which nine of ten exceeded {before} before.",
            f"histogram_quantile(0.5, sum by (run, le) (rate(rba_reward_bucket[{rewards}])))\n"
            f"< histogram_quantile(0.1, sum by (run, le) (rate(rba_reward_bucket[{before}] offset {before})))",
            limits.hold_s,
        ),
    ]


def _disk(limits: Limits) -> list[Alert]:
    gap, window = duration(limits.gap_s), duration(limits.window_s)
    free, trend = "rba_disk_free_bytes", duration(limits.disk_trend_s)
    saved = _recent("rba_checkpoint_last_success_timestamp_seconds", gap)
    age = f"time() - {saved}"
    return [
        Alert(
            "CheckpointOld",
            "warning",
            "{{ $labels.run }} writes no checkpoint",
            f"The last one is more than {duration(limits.checkpoint_s)} old, or the disk refused the next.",
            f"({age} > {limits.checkpoint_s:g}\nor sum by (run) (increase(rba_checkpoint_failures_total[{window}])) > 0)\n"
            f"and on (run) {WORKING} == 1\n"
            f"or ({WORKING} == 1 and on (run) ({WORKING} offset {duration(limits.checkpoint_s)}) == 1) unless on (run) {saved}",
            limits.hold_s,
        ),
        Alert(
            "JournalDiskLow",
            "critical",
            "The disk of {{ $labels.run }} is full, or will be",
            f"Less than {limits.disk_free_bytes / (1 << 30):.0f} GiB are free, none will be within {duration(limits.disk_ahead_s)}, "
            "or the journal cannot be written. Then nothing is leased or acknowledged.",
            f"min by (run) (last_over_time({free}[{gap}])) < {limits.disk_free_bytes:.0f}\n"
            f"or (min by (run) (predict_linear({free}[{trend}], {limits.disk_ahead_s:g})) < 0 "
            f"and on (run) {free} offset {duration(limits.disk_trend_s / 2)})\n"
            f"or sum by (run) (increase(rba_journal_failed_commits_total[{window}])) > 0",
            limits.gap_s,
        ),
    ]
