"""What each process did in the last while, from the counters of its statuses. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ops.bottleneck import Limit, Load, Stage, busy, limit

WINDOW_S = 60.0
EVERY_S = 2.0
"""Between two answers of a process that are kept."""
LEAST_S = 5.0
"""Less than this says nothing yet."""
GONE_S = 30.0
"""A process whose last answer is older takes no part."""


class Sums(NamedTuple):
    """Counters of one process: seconds by what they were spent on, and what it has done."""

    seconds: dict[str, float]
    done: float
    """Tokens of an actor, items of a reward server."""

    @classmethod
    def of(cls, role: str, status: Mapping[str, Any]) -> Sums | None:
        """From a status; None while it has none of this, and for roles that nobody watches so closely."""
        match role:
            case "rollout" if "idle_seconds" in status:
                return cls({**status["idle_seconds"], "paused": status.get("pause_seconds", 0.0)}, float(status.get("generated_tokens", 0)))
            case "reward" if "busy_s" in status:
                return cls({"busy": status["busy_s"]}, float(status.get("items", 0)))
            case "learner" if "work_seconds" in status:
                return cls(dict(status["work_seconds"]), 0.0)
        return None


class _Answer(NamedTuple):
    at_s: float
    sums: Sums


class Measured(NamedTuple):
    """The last while."""

    load: Load = Load()
    rates: Mapping[str, float] = {}
    """What each actor and reward server does a second: tokens, items."""
    busy: Mapping[Stage, float] = {}
    limit: Limit | None = None


class Recent:
    """Answers of the processes, newest last."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[str, deque[_Answer]]] = {}

    def saw(self, name: str, role: str, answered_s: float, status: Mapping[str, Any]) -> None:
        """A process has answered, at `answered_s`; to be told of the same answer again does nothing."""
        sums = Sums.of(role, status)
        if sums is None:
            return
        _, answers = self._answers.setdefault(name, (role, deque()))
        if answers and _began_anew(answers[-1].sums, sums):
            answers.clear()
        if answers and answered_s - answers[-1].at_s < EVERY_S:
            return
        answers.append(_Answer(answered_s, sums))
        while len(answers) > 2 and answers[1].at_s <= answered_s - WINDOW_S:
            answers.popleft()

    def measured(self, now_s: float, present: Collection[str]) -> Measured:
        """How the processes `present` were; the others, and those that are silent, are forgotten."""
        for name in [name for name, (_, kept) in self._answers.items() if name not in present or now_s - kept[-1].at_s > GONE_S]:
            del self._answers[name]
        seconds: dict[str, dict[str, float]] = {"rollout": {}, "reward": {}, "learner": {}}
        counted = dict.fromkeys(seconds, 0)
        rates: dict[str, float] = {}
        for name, (role, answers) in self._answers.items():
            first, last = answers[0], answers[-1]
            length_s = last.at_s - first.at_s
            spent = {key: value - first.sums.seconds.get(key, 0.0) for key, value in last.sums.seconds.items()}
            worked_s = length_s - spent.pop("spare", 0.0)
            if length_s < LEAST_S:
                continue
            if role != "learner":
                rates[name] = (last.sums.done - first.sums.done) / length_s
            if worked_s >= LEAST_S:
                counted[role] += 1
                _add(seconds[role], {**spent, "all": worked_s})
        load = _load(seconds, counted["rollout"])
        return Measured(load, rates, busy(load), limit(load))


def _load(seconds: Mapping[str, Mapping[str, float]], actors: int) -> Load:
    def share(role: str, what: str) -> float:
        return min(1.0, max(0.0, seconds[role].get(what, 0.0) / seconds[role]["all"])) if seconds[role] else 0.0

    waits = {what: share("rollout", what) for what in ("audio", "leases", "weights", "rewards", "paused")}
    return Load(
        actors=actors,
        sampling=max(0.0, 1.0 - sum(waits.values())) if actors else 0.0,
        reading=waits["audio"],
        for_leases=waits["leases"],
        for_weights=waits["weights"],
        for_rewards=waits["rewards"],
        paused=waits["paused"],
        scoring=share("reward", "busy") if seconds["reward"] else None,
        training=share("learner", "step") if seconds["learner"] else None,
        saving=share("learner", "checkpoint"),
        publishing=share("learner", "publish"),
        for_pairs=share("learner", "pairs"),
        for_evaluation=share("learner", "evaluation"),
    )


def _add(to: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        to[key] = to.get(key, 0.0) + value


def _began_anew(old: Sums, new: Sums) -> bool:
    """A process that was started again counts from zero."""
    return new.done < old.done or sum(new.seconds.values()) < sum(old.seconds.values()) - 1.0
