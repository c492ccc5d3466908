"""Every metric of rba: name, kind, meaning, who exports it, labels. The one source of exporters, documentation, dashboard and alert rules.

Names follow Prometheus: prefix `rba_`, base units, `_total` on counters. `_seconds_total{reason}` metrics add up waiting times.
`_last_success_timestamp_seconds` tells a process that hangs from one that has nothing to do, for its gauges stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
COMMIT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
COPY_SECONDS = (0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LAGS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
REWARDS = (
    *(-100, -50, -30, -20, -15, -10, -5, -3, -2, -1, -0.5, -0.25, -0.1, -0.05),
    *(0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3),
    *(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 5, 10, 15, 20, 30, 50, 100),
)
"""Fine where ArmoRM's are, and those of BLEU."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the catalogue."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    exporters: tuple[str, ...]
    """Roles that export it."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS

    @property
    def unit(self) -> Literal["seconds", "bytes", "ratio", ""]:
        """Base unit, read from the name; "" for what is merely counted."""
        words = self.name.removesuffix("_total").split("_")
        return next((unit for unit in ("seconds", "bytes", "ratio") if words[-1] == unit), "")


LEARNER, ROLLOUT, REWARD, STORE, FETCHER, SUPERVISOR = "learner", "rollout", "reward", "weight_store", "fetcher", "supervisor"
ALL = (LEARNER, ROLLOUT, REWARD, STORE, FETCHER, SUPERVISOR)

CATALOGUE: tuple[Metric, ...] = (
    Metric("rba_build_info", "gauge", "1, with the version of rba and of Python as labels.", ALL, ("version", "python")),
    # The ledgers, counted in group results; pairs beside them.
    Metric("rba_leases_granted_total", "counter", "Leases granted, one a group; a group that is granted again counts again.", (LEARNER,)),
    Metric("rba_leases_settled_total", "counter", "Leases that ended with an outcome.", (LEARNER,)),
    Metric("rba_leases_expired_total", "counter", "Leases that ended without an outcome and were granted again.", (LEARNER,)),
    Metric("rba_groups_leased", "gauge", "Leases that are out now.", (LEARNER,)),
    Metric("rba_results_received_total", "counter", "Group results that arrived.", (LEARNER,)),
    Metric("rba_results_unique_total", "counter", "Group results that were the first of their ordinal.", (LEARNER,)),
    Metric("rba_results_duplicate_total", "counter", "Group results of an ordinal that had one already.", (LEARNER,)),
    Metric("rba_results_rejected_total", "counter", "Group results that were refused.", (LEARNER,), ("reason",)),
    Metric("rba_messages_refused_total", "counter", "Messages to the learner that nobody could read.", (LEARNER,), ("reason",)),
    Metric("rba_results_trained_total", "counter", "Group results that changed the weights.", (LEARNER,)),
    Metric("rba_results_dropped_total", "counter", "Unique group results that train nobody.", (LEARNER,), ("reason",)),
    Metric("rba_results_queued", "gauge", "Group results that wait for a step.", (LEARNER,)),
    Metric("rba_pairs_received_total", "counter", "Preference pairs that arrived.", (LEARNER,)),
    Metric("rba_pairs_unique_total", "counter", "Preference pairs of unique group results.", (LEARNER,)),
    Metric("rba_pairs_duplicate_total", "counter", "Preference pairs of duplicate group results.", (LEARNER,)),
    Metric("rba_pairs_rejected_total", "counter", "Preference pairs of refused group results.", (LEARNER,), ("reason",)),
    Metric("rba_pairs_trained_total", "counter", "Preference pairs that changed the weights.", (LEARNER,)),
    Metric("rba_pairs_dropped_total", "counter", "Preference pairs that train nobody.", (LEARNER,), ("reason",)),
    Metric("rba_pairs_queued", "gauge", "Preference pairs that wait for a step.", (LEARNER,)),
    Metric("rba_group_outcomes_total", "counter", "Outcomes of leased groups.", (LEARNER, ROLLOUT), ("outcome",)),
    # Versions and lag.
    Metric("rba_policy_lag_versions", "histogram", "Learner steps between sampling and training of a group's pairs.", (LEARNER,), (), LAGS),
    Metric(
        "rba_policy_version", "gauge", "Step of the policy version that this role holds.", (LEARNER, ROLLOUT, STORE, FETCHER), ("role",)
    ),
    # Rollout.
    Metric("rba_completions_total", "counter", "Completions sampled, by how they ended.", (ROLLOUT,), ("finish_reason",)),
    Metric("rba_generated_tokens_total", "counter", "Tokens sampled.", (ROLLOUT,)),
    Metric("rba_generation_seconds", "histogram", "Time to sample all voices of a group.", (ROLLOUT,)),
    Metric("rba_generation_pause_seconds", "histogram", "Pause of generation while a policy version is applied.", (ROLLOUT,)),
    Metric("rba_actor_idle_seconds_total", "counter", "Time that a rollout actor had nothing to sample.", (ROLLOUT,), ("reason",)),
    Metric("rba_reward", "histogram", "Rewards of sampled completions.", (ROLLOUT,), (), REWARDS),
    Metric("rba_speaker_reward", "gauge", "Mean reward of recent completions, by voice.", (ROLLOUT,), ("speaker",)),
    Metric("rba_reward_gap", "gauge", "Mean reward of the group minus that of this voice, recently.", (ROLLOUT,), ("speaker",)),
    Metric("rba_speaker_consistency", "gauge", "Share of pairs of voices with equal sampled answers, recently.", (ROLLOUT,)),
    Metric("rba_groups_sampled_total", "counter", "Groups whose voices were sampled for training.", (ROLLOUT,)),
    Metric(
        "rba_groups_failed_total",
        "counter",
        "Those in which every voice failed: no answer ended by itself, or, where the strategy needs rewards, none that did has one.",
        (ROLLOUT,),
    ),
    Metric(
        "rba_pairs_sampled_total",
        "counter",
        "Preference pairs made of sampled groups; beside the completions, how many of them one costs.",
        (ROLLOUT,),
    ),
    Metric("rba_rollout_last_success_timestamp_seconds", "gauge", "When a group result of this actor was last acknowledged.", (ROLLOUT,)),
    # Rewards.
    Metric("rba_reward_request_seconds", "histogram", "Time of one reward request, retries included.", (ROLLOUT,)),
    Metric("rba_reward_errors_total", "counter", "Reward requests or items that failed.", (ROLLOUT, REWARD), ("kind",)),
    Metric("rba_reward_servers", "gauge", "Reward servers, by what this actor's circuit breaker says of them.", (ROLLOUT,), ("state",)),
    Metric("rba_reward_items_total", "counter", "Items scored.", (REWARD,)),
    Metric("rba_reward_batch_items", "histogram", "Items that were scored together.", (REWARD,), (), (1, 2, 4, 8, 16, 32, 64, 128, 256)),
    Metric("rba_reward_batch_seconds", "histogram", "Time to score one batch.", (REWARD,)),
    Metric("rba_reward_queue_items", "gauge", "Items that wait to be scored.", (REWARD,)),
    Metric("rba_reward_last_success_timestamp_seconds", "gauge", "When an item was last scored.", (ROLLOUT, REWARD)),
    # Learner.
    Metric("rba_learner_steps_total", "counter", "Optimiser steps.", (LEARNER,)),
    Metric("rba_learner_step_seconds", "histogram", "Time of a step, by phase.", (LEARNER,), ("phase",)),
    Metric(
        "rba_learner_idle_seconds_total",
        "counter",
        "Time that the learner waited, for pairs or for an evaluation's answers.",
        (LEARNER,),
        ("reason",),
    ),
    Metric("rba_learner_last_step_timestamp_seconds", "gauge", "When the last step ended.", (LEARNER,)),
    Metric("rba_loss", "gauge", "Loss of the last step, by term.", (LEARNER,), ("term",)),
    Metric("rba_preference_margin", "gauge", "Mean β log V+ − β log V− of the last step.", (LEARNER,)),
    Metric("rba_preference_accuracy", "gauge", "Share of pairs whose margin is positive, last step.", (LEARNER,)),
    Metric(
        "rba_sampler_logprob_gap",
        "gauge",
        "Mean absolute difference of the sampler's and the learner's token log-probabilities.",
        (LEARNER,),
    ),
    Metric(
        "rba_completions_off_ratio",
        "gauge",
        "Share of completions whose log-probabilities by learner and sampler differ by more than learner.sampler_gap_alarm, last step.",
        (LEARNER,),
    ),
    Metric("rba_grad_norm", "gauge", "Gradient norm before clipping, last step.", (LEARNER,)),
    Metric("rba_learning_rate", "gauge", "Learning rate of the last step.", (LEARNER,)),
    Metric("rba_nonfinite_steps_total", "counter", "Steps skipped, for a loss or gradient was not finite.", (LEARNER,)),
    Metric("rba_rollbacks_total", "counter", "Returns to the last good checkpoint, after skipped steps in a row.", (LEARNER,)),
    Metric("rba_checkpoint_seconds", "histogram", "Time to write a checkpoint.", (LEARNER,)),
    Metric("rba_checkpoint_last_success_timestamp_seconds", "gauge", "When the last checkpoint was committed.", (LEARNER,)),
    Metric("rba_checkpoint_failures_total", "counter", "Checkpoints that the disk refused.", (LEARNER,)),
    Metric("rba_journal_bytes", "gauge", "Size of the journal's files.", (LEARNER,)),
    Metric("rba_journal_commit_seconds", "histogram", "Time to make received results durable.", (LEARNER,), (), COMMIT_SECONDS),
    Metric("rba_journal_last_success_timestamp_seconds", "gauge", "When the journal was last written.", (LEARNER,)),
    Metric("rba_journal_failed_commits_total", "counter", "Times that the disk refused the journal.", (LEARNER,)),
    Metric("rba_checkpoint_copies_total", "counter", "Copies of checkpoints, by what became of them.", (LEARNER,), ("outcome",)),
    Metric("rba_checkpoint_copy_seconds", "histogram", "Time to copy a checkpoint.", (LEARNER,), (), COPY_SECONDS),
    Metric("rba_evaluation", "gauge", "Figures of the last held-out evaluation.", (LEARNER,), ("suite", "metric")),
    Metric("rba_actors", "gauge", "Rollout actors that are registered.", (LEARNER,)),
    Metric("rba_results_last_success_timestamp_seconds", "gauge", "When group results were last acknowledged.", (LEARNER,)),
    Metric("rba_disk_free_bytes", "gauge", "Free space where the run's folder is, as an unprivileged user has it.", (LEARNER,)),
    # Weights.
    Metric(
        "rba_weight_push_seconds",
        "histogram",
        "Time of one stage of a push: gather (learner), fetch (fetcher), apply (rollout).",
        (LEARNER, FETCHER, ROLLOUT),
        ("stage",),
    ),
    Metric("rba_weight_pushes_total", "counter", "Policy versions published, fetched or applied.", (LEARNER, FETCHER, ROLLOUT)),
    Metric("rba_weight_bytes_total", "counter", "Bytes of weights served or pulled.", (STORE, FETCHER)),
    Metric("rba_weight_chunk_errors_total", "counter", "Chunks that failed their checksum and were asked again.", (FETCHER,)),
    Metric(
        "rba_weight_last_success_timestamp_seconds",
        "gauge",
        "When a policy version was last published, fetched or applied.",
        (LEARNER, FETCHER, ROLLOUT),
    ),
    # Who was kept out.
    Metric(
        "rba_authentication_failures_total",
        "counter",
        "Handshakes and messages that were refused for want of an allowed key, reward requests for want of the token; none are counted on "
        "sockets without either.",
        (LEARNER, STORE, FETCHER, REWARD),
        ("socket", "reason"),
    ),
    # Supervisor.
    Metric(
        "rba_run_phase",
        "gauge",
        "1 for the phase that the run is in, 0 for the others: starting, training, evaluating, stopping.",
        (SUPERVISOR,),
        ("phase",),
    ),
    Metric("rba_processes", "gauge", "Processes that run.", (SUPERVISOR,), ("role",)),
    Metric(
        "rba_stage_busy_ratio",
        "gauge",
        "Share of its time that a stage of the job works, recently: generation, reward, learner, push. The highest is the bottleneck.",
        (SUPERVISOR,),
        ("stage",),
    ),
    Metric("rba_rewards_wanted", "gauge", "Reward servers that there are to be.", (SUPERVISOR,)),
    Metric("rba_actors_wanted", "gauge", "Rollout actors that there are to be, spares not counted.", (SUPERVISOR,)),
    Metric("rba_spare_actors", "gauge", "Warm spares among the rollout actors that run.", (SUPERVISOR,)),
    Metric("rba_restarts_total", "counter", "Processes that were started again after a failure.", (SUPERVISOR,), ("role",)),
    Metric("rba_hangs_total", "counter", "Processes that were ended since they lived and did no work.", (SUPERVISOR,), ("role",)),
    Metric("rba_quarantined", "gauge", "Processes that failed too often, and whose place nobody has taken.", (SUPERVISOR,), ("role",)),
    Metric("rba_supervisor_last_success_timestamp_seconds", "gauge", "When the supervisor last looked after its processes.", (SUPERVISOR,)),
)

SECTIONS = {
    "rba_build_info": "Every process",
    "rba_leases_granted_total": "Ledgers",
    "rba_policy_lag_versions": "Policy versions",
    "rba_completions_total": "Rollout",
    "rba_reward_request_seconds": "Rewards",
    "rba_learner_steps_total": "Learner",
    "rba_weight_push_seconds": "Weights",
    "rba_authentication_failures_total": "Access",
    "rba_run_phase": "Supervisor",
}
"""Headings, by the metric that they stand above."""


def sections() -> Iterator[tuple[str, list[Metric]]]:
    """The catalogue by heading, in its order."""
    starts = [index for index, metric in enumerate(CATALOGUE) if metric.name in SECTIONS]
    for start, end in zip(starts, [*starts[1:], len(CATALOGUE)], strict=True):
        yield SECTIONS[CATALOGUE[start].name], list(CATALOGUE[start:end])
