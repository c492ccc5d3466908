"""What a rollout actor tells Prometheus and `rba status`."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import combinations

from actors.rollout.idle import Idle, IdleClock
from actors.rollout.pairing import same_text
from protocol.messages import (
    FINISH_REASONS,
    Completion,
    GroupResult,
    LeasedGroup,
    Outcome,
    PolicyVersion,
    Purpose,
)
from protocol.metrics import Metrics

MEMORY = 0.98
"""Share that a moving mean keeps of itself with every new value: it looks back some fifty groups."""
VOICES = 32
"""Voices that have gauges of their own; more of them count together as "other", for Prometheus would drown."""


class MovingMean:
    """An exponentially weighted mean; the first values count plainly."""

    def __init__(self) -> None:
        self.value, self._weight = 0.0, 0.0

    @property
    def known(self) -> bool:
        """False before the first value."""
        return self._weight > 0

    def add(self, value: float) -> float:
        """The mean with one more value."""
        self._weight = MEMORY * self._weight + 1
        self.value += (value - self.value) / self._weight
        return self.value


class Gauges:
    """Counts what the actor does; the closing figures are its sums."""

    def __init__(self, metrics: Metrics, *, needs_rewards: bool = True) -> None:
        """`needs_rewards`: the strategy can make nothing of an answer without one."""
        self._metrics, self._needs_rewards = metrics, needs_rewards
        self.groups = self.completions = self.tokens = 0
        self.outcomes: Counter[str] = Counter()
        self.pauses_s: deque[float] = deque(maxlen=10_000)
        self.paused_s = 0.0
        """All pauses together."""
        self.pushes = self.refused = 0
        self._idle: dict[Idle, float] = defaultdict(float)
        self._consistency = MovingMean()
        self._rewards: dict[str, MovingMean] = {}
        self._gaps: dict[str, MovingMean] = {}
        metrics.declare("rba_group_outcomes_total", outcome=Outcome)
        metrics.declare("rba_completions_total", finish_reason=FINISH_REASONS)
        metrics.declare("rba_actor_idle_seconds_total", reason=Idle)
        metrics.declare("rba_weight_push_seconds", stage=("apply",))

    def sampled(self, result: GroupResult, leased: LeasedGroup, seconds: float) -> None:
        """A group has its outcome, `seconds` after its sampling began."""
        self.groups += 1
        self.outcomes[result.outcome.value] += 1
        self._metrics.inc("rba_group_outcomes_total", outcome=result.outcome.value)
        for each in result.completions:
            self.completions += 1
            self.tokens += len(each.token_ids) // 4
            self._metrics.inc("rba_completions_total", finish_reason=each.finish_reason)
            self._metrics.inc("rba_generated_tokens_total", len(each.token_ids) // 4)
        if result.completions:
            self._metrics.observe("rba_generation_seconds", seconds)
        if leased.purpose is Purpose.TRAIN and result.completions:
            self._metrics.inc("rba_groups_sampled_total")
            self._metrics.inc("rba_groups_failed_total", every_voice_failed(result.completions, needs_rewards=self._needs_rewards))
            self._metrics.inc("rba_pairs_sampled_total", len(result.pairs))
            self._voices(result, leased)

    def acknowledged(self) -> None:
        """The learner has results of this actor for good."""
        self._metrics.succeeded("rba_rollout_last_success_timestamp_seconds")

    def applied(self, version: PolicyVersion, pause_s: float, apply_s: float) -> None:
        """A policy version took over."""
        self.pushes += 1
        self.pauses_s.append(pause_s)
        self.paused_s += pause_s
        self._metrics.inc("rba_weight_pushes_total")
        self._metrics.succeeded("rba_weight_last_success_timestamp_seconds")
        self._metrics.observe("rba_generation_pause_seconds", pause_s)
        self._metrics.observe("rba_weight_push_seconds", apply_s, stage="apply")
        self._metrics.set("rba_policy_version", version.step, role="rollout")

    def idle(self, clock: IdleClock, now_s: float) -> None:
        """Export what the clock has added up since the last time."""
        for reason, seconds in clock.seconds(now_s).items():
            self._metrics.inc("rba_actor_idle_seconds_total", max(0.0, seconds - self._idle[reason]), reason=reason.value)
            self._idle[reason] = seconds

    @property
    def pause_ms_p50(self) -> float | None:
        """Median pause of a push."""
        return round(1000 * statistics.median(self.pauses_s), 2) if self.pauses_s else None

    @property
    def consistency(self) -> float | None:
        """Share of pairs of voices with equal answers, recently."""
        return self._consistency.value if self._consistency.known else None

    def _voices(self, result: GroupResult, leased: LeasedGroup) -> None:
        utterances = leased.group.utterances
        spoken = [each for each in result.completions if utterances[each.utterance].audio is not None]
        self._agree([each.text for each in spoken])
        scored = [(utterances[each.utterance].speaker, each.reward) for each in spoken if each.reward is not None]
        for _, reward in scored:
            self._metrics.observe("rba_reward", reward)
        if not scored:
            return
        mean = statistics.fmean(reward for _, reward in scored)
        for speaker, reward in scored:
            name = speaker if speaker in self._rewards or len(self._rewards) < VOICES else "other"
            self._metrics.set("rba_speaker_reward", self._rewards.setdefault(name, MovingMean()).add(reward), speaker=name)
            self._metrics.set("rba_reward_gap", self._gaps.setdefault(name, MovingMean()).add(mean - reward), speaker=name)

    def _agree(self, texts: Iterable[str]) -> None:
        pairs = [same_text(one, other) for one, other in combinations(texts, 2)]
        if pairs:
            self._metrics.set("rba_speaker_consistency", self._consistency.add(statistics.fmean(pairs)))


def every_voice_failed(completions: Sequence[Completion], *, needs_rewards: bool) -> bool:
    """True when no answer ended by itself, or, with `needs_rewards`, none that did has one."""
    return not any(each.finish_reason == "stop" and (each.reward is not None or not needs_rewards) for each in completions)
