"""``rba`` with light roles in place of the real ones: ``python -m tests.ops.scripted_run launch …``."""

from __future__ import annotations

from collections.abc import Callable

from configs.schema import RunConfig
from ops import cli, preflight, topology

FAKES = {
    "weight_store": "tests.ops.fakes:FakeWeightStore",
    "fetcher": "tests.ops.fakes:FakeFetcher",
    "reward": "tests.ops.fakes:FakeReward",
    "learner": "tests.ops.fakes:FakeLearner",
    "rollout": "tests.ops.fakes:FakeRollout",
}


def unchecked(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
    """Stands in for the preflight: there is neither model nor data."""
    say("not checked")
    return config


if __name__ == "__main__":
    topology.FACTORIES.update(FAKES)
    preflight.check = unchecked
    cli.main()
