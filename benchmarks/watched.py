"""A run as its supervisor knows it, made up: any number of actors, each with what a real one says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from configs.schema import RunConfig
from ops.hands import Hands
from ops.orders import Phase, State
from ops.overview import Overview
from ops.rundir import RunDir
from ops.supervision import Supervision
from protocol.metrics import Metrics

STEPS = 130
OUTCOMES = {"pairs": 120, "tied": 40, "truncated": 3, "unscored": 1}


def rollout(at_s: float, number: int = 0, groups: int = 164) -> dict[str, Any]:
    """What an actor says, `at_s` after its start."""
    return {
        "state": "working",
        "start_seconds": 21.5,
        "policy_version": f"0.{40 + number % 2}",
        "quiet_s": 0.2,
        "registered": True,
        "spare": False,
        "held_groups": 4,
        "groups": groups,
        "outcomes": OUTCOMES,
        "completions": 4 * groups,
        "generated_tokens": int(200 * at_s) + number,
        "idle": 0.4,
        "idle_seconds": {"leases": 0.38 * at_s, "weights": 0.03 * at_s, "audio": 0.0, "rewards": 0.0, "spare": 0.0},
        "waits_for": "leases" if number % 2 else None,
        "pushes": 40,
        "refused_versions": 0,
        "pause_ms_p50": 35.0,
        "pause_seconds": 0.01 * at_s,
        "consistency": 0.7,
    }


def reward(at_s: float) -> dict[str, Any]:
    """What a reward server says."""
    done = {"items": int(80 * at_s), "errors": 0, "batches": 10, "busy_s": 0.12 * at_s, "items_per_s": 600.0, "busy": 0.12}
    return {"scorer": "reward_model", "signature": "tiny", "quiet_s": 0.0, "queued_items": 3, **done}


def learner(at_s: float, actors: int = 1) -> dict[str, Any]:
    """What rank 0 says."""
    ledger = {
        "leased": 350, "settled": 330, "outstanding": 16, "expired": 4, "received": 332, "unique": 330, "duplicate": 2, "rejected": 0,
        "trained": 320, "dropped": 4, "queued": 6, "rejected_reasons": {}, "dropped_reasons": {"stale": 4},
    }  # fmt: skip
    work = {"step": 0.95, "publish": 0.02, "checkpoint": 0.0, "pairs": 0.03, "evaluation": 0.0, "other": 0.0}
    registered = [{"id": f"rollout-{number}", "incarnation": 1, "policy_version": "0.40", "held_groups": 4} for number in range(actors)]
    return {
        "state": "training",
        "step": 41,
        "steps": STEPS,
        "policy_version": "0.41",
        "ledger": ledger,
        "pairs": {"trained": 300 + int(3 * at_s)},
        "actors": registered,
        "policy_lag": {"mean": 1.2, "p95": 2, "max": 2},
        "idle": 0.03,
        "idle_s": 0.03 * at_s,
        "work_seconds": {what: share * at_s for what, share in work.items()},
        "quiet_s": 0.5,
        "nonfinite_steps": 0,
        "rollbacks": 0,
        "last": {
            "loss": {"total": 0.612},
            "reward": 0.412,
            "preference_accuracy": 0.7,
            "policy_lag": {"mean": 1.2},
            "completions_off": 0.0,
        },
        "evaluations": {"before": {"accuracy": 0.61}},
        "copies": None,
        "journal": {"bytes": 12_300_000, "durable": 4000, "stalled": ""},
        "checkpoint": {"step": 40, "age_s": 62.0},
        "disk_free_bytes": 120_000_000_000,
    }


def said(name: str, at_s: float, actors: int) -> dict[str, Any]:
    """What a process says, by its id."""
    role, _, number = name.rpartition("-")
    match role:
        case "rollout":
            return rollout(at_s, int(number))
        case "reward":
            return reward(at_s)
        case "learner":
            return learner(at_s, actors)
    return {"policy_version": "0.41", "quiet_s": 0.1}


class Watched:
    """An overview over processes that say what a test lets them say; `run` need not exist."""

    def __init__(self, actors: int = 2, rewards: int = 1) -> None:
        config = RunConfig.model_validate(
            {
                "model": {"path": "model"},
                "data": {"train": "train.jsonl"},
                "rewards": {"scorer": "bleu"},
                "learner": {"steps": STEPS},
                "rollout": {"actors": actors},
            }
        )
        counts = {"learner": 1, "weight_store": 1, "fetcher": 1, "reward": rewards, "rollout": actors}
        self.roles = {f"{role}-{number}": role for role, count in counts.items() for number in range(count)}
        self.actors = actors
        self.metrics = Metrics("supervisor")
        self.fleet = SimpleNamespace(
            statuses=dict[str, dict[str, Any]](),
            answered_at=dict[str, float](),
            places={name: ("127.0.0.1", 4000 + number) for number, name in enumerate(self.roles)},
            descriptions={
                name: {
                    "role": role,
                    "id": name,
                    "pid": 4000 + number,
                    "host": "node",
                    "endpoints": {"rewards": f"http://127.0.0.1:{9000 + number}"} if role == "reward" else {},
                    "metrics_url": f"http://127.0.0.1:{10_000 + number}/metrics",
                }
                for number, (name, role) in enumerate(self.roles.items())
            },
        )
        self.supervision = SimpleNamespace(
            state=State.RUNNING,
            reason="",
            phases=dict.fromkeys(self.roles, Phase.RUNNING),
            spares=[],
            restarted=dict.fromkeys(self.roles, 0),
            hung={},
            vacant=lambda _role: 0,
            wanted={"rollout": actors, "reward": rewards, "spare": 0},
        )
        specs = [SimpleNamespace(id=name, role=role) for name, role in self.roles.items()]
        hands = SimpleNamespace(fleet=self.fleet, wiring=SimpleNamespace(specs=specs))
        self.overview = Overview(RunDir(Path("demo"), "demo-1"), config, self.metrics, 0.0)
        self.overview.control_url = "http://127.0.0.1:9"
        self.overview.watch(cast(Supervision, self.supervision), cast(Hands, hands))

    def answer(self, at_s: float, now_s: float) -> None:
        """Every process answers, `at_s` after its start."""
        for name in self.roles:
            self.fleet.statuses[name] = said(name, at_s, self.actors)
            self.fleet.answered_at[name] = now_s
