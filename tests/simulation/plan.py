"""What a simulated run is like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from configs.schema import RunConfig
from learner import frontier
from protocol.messages import InstructionGroup, Utterance

HEARTBEAT_S, DEADLINE_S = 1.0, 20.0
GROUPS = [InstructionGroup(f"g{number}", "", "yes", [Utterance("a", f"{number}")]) for number in range(12)]
HELD_OUT = [InstructionGroup(f"h{number}", "", "yes", [Utterance("a", f"h{number}")]) for number in range(2)]

# Pure functions of a few numbers that numpy takes its time for; every life of every schedule asks the same of them.
frontier.sampling_seed = cache(frontier.sampling_seed)
frontier.order_of_epoch = cache(frontier.order_of_epoch)


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and paces; 0 in `number` is the simplest run."""

    seed: int
    actors: int
    capacity_groups: int
    steps: int
    batch_groups: int
    max_policy_lag: int
    publish_every: int
    checkpoint_every: int
    evaluate_every: int
    held_out: int
    keep_checkpoints: int
    segment_bytes: int
    limit_bytes: int
    lost_peers_show: bool
    """The learner's socket tells at once when a peer's process is gone."""

    @classmethod
    def of(cls, number: int) -> Plan:
        def choose(count: int) -> int:
            nonlocal number
            number, choice = divmod(number, count)
            return choice

        lag = choose(3)
        return cls(
            actors=(1, 2, 2, 3)[choose(4)],
            capacity_groups=1 + choose(3),
            steps=2 + choose(3),
            batch_groups=1 + choose(2),
            max_policy_lag=lag,
            publish_every=1 + choose(2) if lag else 1,
            checkpoint_every=1 + choose(3),
            evaluate_every=choose(3),
            held_out=(0, 0, 1, 2)[choose(4)],
            keep_checkpoints=1 + choose(2),
            segment_bytes=(64 << 10, 2048)[choose(2)],
            lost_peers_show=bool(choose(2)),
            limit_bytes=(1 << 30, 4096)[choose(2)],
            seed=choose(8),
        )

    @property
    def config(self) -> RunConfig:
        return _config(
            self.steps, self.batch_groups, self.max_policy_lag, self.publish_every, self.checkpoint_every, self.keep_checkpoints,
        )  # fmt: skip


@cache
def _config(steps: int, batch: int, lag: int, publish: int, checkpoint: int, keep: int) -> RunConfig:
    learner = {
        "steps": steps,
        "batch_groups": batch,
        "max_policy_lag": lag,
        "publish_every": publish,
        "checkpoint_every": checkpoint,
        "keep_checkpoints": keep,
        "nonfinite_steps": 2,
        "nonfinite_rollbacks": 9,
        "heartbeat_s": HEARTBEAT_S,
        "lease_deadline_s": DEADLINE_S,
    }
    return RunConfig.model_validate({"strategy": "single", "model": {"path": "model"}, "data": {"train": "train"}, "learner": learner})
