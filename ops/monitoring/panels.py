"""What the dashboard shows, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ops.monitoring.alerts import MISMATCH
from ops.monitoring.queries import PROCESS, RATE, RUN, age, chosen, gauge, mean, quantile, rate, vllm_gauge, vllm_rate


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, and what its series are called."""

    expr: str
    legend: str = "{{process}}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "state-timeline"] = "timeseries"
    top: float | None = None
    """Upper end of the axis."""


def panel(title: str, unit: str, *queries: str | tuple[str, str], top: float | None = None) -> Panel:
    """A curve for each series."""
    return Panel(title, unit, tuple(Query(each) if isinstance(each, str) else Query(*each) for each in queries), top=top)


def stat(title: str, unit: str, expr: str, legend: str = "{{run}}") -> Panel:
    """The present figure."""
    return Panel(title, unit, (Query(expr, legend),), kind="stat")


def share(title: str, *queries: str | tuple[str, str]) -> Panel:
    """From 0 to 1."""
    return panel(title, "percentunit", *queries, top=1.0)


NOW = [
    Panel("Phase", "none", (Query(f"max by (run, phase) (rba_run_phase{{{RUN}}}) == 1", "{{phase}}"),), kind="state-timeline"),
    stat("Learner step", "none", f'max by (run) (rba_policy_version{{{RUN}, role="learner"}})'),
    stat("Since the last step", "s", age("rba_learner_last_step_timestamp_seconds", "run")),
    stat("Since the last checkpoint", "s", age("rba_checkpoint_last_success_timestamp_seconds", "run")),
    stat("Alerts that fire", "none", f'count by (run) (ALERTS{{{RUN}, alertstate="firing"}}) or 0 * max by (run) (rba_run_phase{{{RUN}}})'),
    stat("Ledger mismatch", "none", f"{MISMATCH}{{{RUN}}}"),
]
THROUGHPUT = [
    panel("Tokens sampled", "cps", rate("rba_generated_tokens_total")),
    panel("Completions sampled, by how they ended", "cps", (rate("rba_completions_total", "finish_reason"), "{{finish_reason}}")),
    panel("Items rewarded", "cps", rate("rba_reward_items_total")),
    panel(
        "Pairs",
        "cps",
        (rate("rba_pairs_received_total", "run"), "received"),
        (rate("rba_pairs_unique_total", "run"), "unique"),
        (rate("rba_pairs_trained_total", "run"), "trained"),
    ),
    panel("Learner steps", "cps", (rate("rba_learner_steps_total", "run"), "{{run}}")),
    panel("Time of a step, by phase", "s", (mean("rba_learner_step_seconds", "phase"), "{{phase}}")),
    panel("Time to sample a group", "s", mean("rba_generation_seconds")),
    share("Busy, by stage (the highest is the bottleneck)", (gauge("rba_stage_busy_ratio", "stage"), "{{stage}}")),
]
LAG = [
    panel(
        "Policy lag of what is trained, steps",
        "none",
        (mean("rba_policy_lag_versions", "run"), "mean"),
        (quantile(0.95, "rba_policy_lag_versions"), "95 %"),
    ),
    panel("Policy version", "none", gauge("rba_policy_version")),
    panel(
        "Sampler against learner",
        "none",
        (gauge("rba_sampler_logprob_gap", "run"), "mean gap of log-probabilities"),
        (gauge("rba_completions_off_ratio", "run"), "share of completions that are off"),
    ),
]
IDLE = [
    share("Learner waits, by reason", (rate("rba_learner_idle_seconds_total", "reason"), "{{reason}}")),
    share("Rollout actors wait, by reason", (rate("rba_actor_idle_seconds_total", "process, reason"), "{{process}} {{reason}}")),
]
REWARDS = [
    panel(
        "Reward",
        "none",
        (quantile(0.1, "rba_reward"), "10 %"),
        (quantile(0.5, "rba_reward"), "50 %"),
        (quantile(0.9, "rba_reward"), "90 %"),
    ),
    panel("Reward, by voice", "none", (gauge("rba_speaker_reward", "speaker", "avg"), "{{speaker}}")),
    panel("Reward gap, by voice", "none", (gauge("rba_reward_gap", "speaker", "avg"), "{{speaker}}")),
    share("Agreement of the voices' answers", gauge("rba_speaker_consistency", "process")),
    share(
        "Groups in which every voice failed",
        (f"{rate('rba_groups_failed_total', 'run')} / {rate('rba_groups_sampled_total', 'run')}", "{{run}}"),
    ),
    panel(
        "Pairs per completion",
        "none",
        (f"{rate('rba_pairs_sampled_total', 'run')} / {rate('rba_completions_total', 'run')}", "{{run}}"),
    ),
    panel(
        "Reward requests, retries included",
        "s",
        (quantile(0.5, "rba_reward_request_seconds"), "50 %"),
        (quantile(0.99, "rba_reward_request_seconds"), "99 %"),
    ),
    panel("Reward errors, by kind", "cps", (rate("rba_reward_errors_total", "process, kind"), "{{process}} {{kind}}")),
    panel("Reward queue", "none", gauge("rba_reward_queue_items")),
    panel("Reward servers as actors see them", "none", (gauge("rba_reward_servers", "process, state"), "{{process}} {{state}}")),
    panel("Reward batches, items", "none", mean("rba_reward_batch_items")),
    panel("Time of a reward batch", "s", mean("rba_reward_batch_seconds")),
    panel("Since the last score", "s", age("rba_reward_last_success_timestamp_seconds")),
]
LEARNING = [
    panel("Loss, by term", "none", (gauge("rba_loss", "term"), "{{term}}")),
    panel("Preference margin", "none", (gauge("rba_preference_margin", "run"), "{{run}}")),
    share("Pairs with a positive margin", (gauge("rba_preference_accuracy", "run"), "{{run}}")),
    panel("Gradient norm", "none", (gauge("rba_grad_norm", "run"), "{{run}}")),
    panel("Learning rate", "none", (gauge("rba_learning_rate", "run"), "{{run}}")),
    panel(
        "Skipped steps and rollbacks",
        "none",
        (gauge("rba_nonfinite_steps_total", "run", "sum"), "steps without a finite loss or gradient"),
        (gauge("rba_rollbacks_total", "run", "sum"), "rollbacks"),
    ),
]
EVALUATION = [
    panel("Held-out figures, last evaluation", "none", (gauge("rba_evaluation", "suite, metric"), "{{suite}} {{metric}}")),
]
WEIGHTS = [
    panel("Time of a push, by stage", "s", (mean("rba_weight_push_seconds", "stage"), "{{stage}}")),
    panel("Pause of generation", "s", mean("rba_generation_pause_seconds")),
    panel("Versions published, fetched, applied", "cps", rate("rba_weight_pushes_total")),
    panel("Weights served and pulled", "Bps", rate("rba_weight_bytes_total")),
    panel("Chunks that were asked again", "cps", rate("rba_weight_chunk_errors_total")),
    panel("Since the last version", "s", age("rba_weight_last_success_timestamp_seconds")),
]
LEDGERS = [
    panel("Outcomes of groups", "cps", (rate("rba_group_outcomes_total", "outcome", 'role="learner"'), "{{outcome}}")),
    panel(
        "Group results",
        "cps",
        *((rate(f"rba_results_{what}_total", "run"), what) for what in ("received", "unique", "trained", "duplicate")),
        (rate("rba_results_dropped_total", "reason"), "dropped: {{reason}}"),
        (rate("rba_results_rejected_total", "reason"), "rejected: {{reason}}"),
    ),
    panel(
        "Groups that are out, and that wait",
        "none",
        (gauge("rba_groups_leased", "run"), "leased"),
        (gauge("rba_results_queued", "run"), "queued"),
    ),
    panel("Leases", "cps", *((rate(f"rba_leases_{what}_total", "run"), what) for what in ("granted", "settled", "expired"))),
    panel(
        "Pairs that train nobody",
        "cps",
        (rate("rba_pairs_duplicate_total", "run"), "duplicate"),
        (rate("rba_pairs_dropped_total", "reason"), "dropped: {{reason}}"),
        (rate("rba_pairs_rejected_total", "reason"), "rejected: {{reason}}"),
    ),
    panel("Pairs that wait", "none", (gauge("rba_pairs_queued", "run"), "{{run}}")),
    panel(
        "Refused",
        "cps",
        (rate("rba_messages_refused_total", "reason"), "messages: {{reason}}"),
        (rate("rba_authentication_failures_total", "socket, reason"), "{{socket}}: {{reason}}"),
    ),
    panel(
        "Since the last acknowledged result",
        "s",
        (age("rba_results_last_success_timestamp_seconds"), "{{process}}"),
        (age("rba_rollout_last_success_timestamp_seconds"), "{{process}}"),
    ),
]
DISK = [
    panel("Journal", "bytes", (gauge("rba_journal_bytes", "run"), "{{run}}")),
    panel("Time to make results durable", "s", (quantile(0.99, "rba_journal_commit_seconds"), "99 %")),
    panel("Free space at the run's folder", "bytes", (gauge("rba_disk_free_bytes", "run"), "{{run}}")),
    panel("Since the journal was written", "s", (age("rba_journal_last_success_timestamp_seconds", "run"), "{{run}}")),
    panel(
        "Refused by the disk",
        "none",
        (gauge("rba_journal_failed_commits_total", "run", "sum"), "commits of the journal"),
        (gauge("rba_checkpoint_failures_total", "run", "sum"), "checkpoints"),
    ),
    panel(
        "Time to write, and to copy, a checkpoint",
        "s",
        (mean("rba_checkpoint_seconds", "run"), "write"),
        (mean("rba_checkpoint_copy_seconds", "run"), "copy"),
    ),
    panel("Copies of checkpoints", "none", (gauge("rba_checkpoint_copies_total", "outcome", "sum"), "{{outcome}}")),
]
PROCESSES = [
    panel("Processes, by role", "none", (gauge("rba_processes", "role"), "{{role}}")),
    panel(
        "Rollout actors and reward servers",
        "none",
        (gauge("rba_actors_wanted", "run"), "actors wanted"),
        (gauge("rba_actors", "run"), "actors registered"),
        (gauge("rba_spare_actors", "run"), "spares"),
        (gauge("rba_rewards_wanted", "run"), "reward servers wanted"),
    ),
    panel(
        "Restarts",
        "none",
        (gauge("rba_restarts_total", "role", "sum"), "{{role}} restarted"),
        (gauge("rba_hangs_total", "role", "sum"), "{{role}} hung"),
        (gauge("rba_quarantined", "role"), "{{role}} quarantined"),
    ),
    panel("Since the supervisor looked after them", "s", (age("rba_supervisor_last_success_timestamp_seconds", "run"), "{{run}}")),
    panel("Answers Prometheus", "none", f"up{{{PROCESS}}}", top=1.0),
    panel("Processor", "percentunit", f"sum by (process) (rate(process_cpu_seconds_total{{{PROCESS}}}[{RATE}]))"),
    panel("Memory", "bytes", f"sum by (process) (process_resident_memory_bytes{{{PROCESS}}})"),
    stat("Version of rba", "none", f"max by (version) ({chosen('rba_build_info')})", "{{version}}"),
]
VLLM = [
    panel("Requests that run", "none", vllm_gauge("num_requests_running")),
    panel("Requests that wait", "none", vllm_gauge("num_requests_waiting")),
    share("Use of the key-value cache", vllm_gauge("kv_cache_usage_perc")),
    panel("Tokens sampled, says vLLM", "cps", vllm_rate("generation_tokens_total")),
    panel("Tokens read", "cps", vllm_rate("prompt_tokens_total")),
    panel(
        "Time to the first token, 95 %",
        "s",
        f"histogram_quantile(0.95, {vllm_rate('time_to_first_token_seconds_bucket', 'process, le')})",
    ),
    panel("Preemptions", "cps", vllm_rate("num_preemptions_total")),
]
RAY = [
    panel("Processor of the machine, percent", "percent", f"ray_node_cpu_utilization{{{RUN}}}"),
    panel("Memory of the machine", "bytes", f"ray_node_mem_used{{{RUN}}}"),
    panel("Ray's object store", "bytes", f"ray_object_store_used_memory{{{RUN}}}"),
]

ROWS: dict[str, list[Panel]] = {
    "Now": NOW,
    "Throughput": THROUGHPUT,
    "Policy lag": LAG,
    "Waiting": IDLE,
    "Rewards and speakers": REWARDS,
    "Learning": LEARNING,
    "Evaluation": EVALUATION,
    "Weights": WEIGHTS,
    "Ledgers": LEDGERS,
    "Disk": DISK,
    "Processes": PROCESSES,
    "vLLM": VLLM,
    "Ray": RAY,
}
"""The dashboard, from top to bottom."""
