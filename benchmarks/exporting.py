"""An exporter in a process of its own, with every metric filled: ``python -m benchmarks.exporting ROLE [counts]``; prints its URL.

With ``counts`` it goes on counting groups, as an actor of some speed does.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from actors.rollout.gauges import VOICES, Gauges
from protocol.catalogue import CATALOGUE
from protocol.messages import (
    Completion,
    GroupResult,
    InstructionGroup,
    LeasedGroup,
    Outcome,
    Purpose,
    Utterance,
)
from protocol.metrics import Metrics

GROUPS_PER_S = 20
VALUES = {"speaker": VOICES, "suite": 1, "metric": 10, "socket": 1}
"""How many values labels have; those that are not named have 8."""


def filled(role: str) -> Metrics:
    """Every metric of a role, with as many series as a run may have."""
    metrics = Metrics(role)
    for metric in CATALOGUE:
        if role not in metric.exporters or metric.name == "rba_build_info":
            continue
        series = (
            [{}]
            if not metric.labels
            else [dict.fromkeys(metric.labels, f"value-{number}") for number in range(max(VALUES.get(label, 8) for label in metric.labels))]
        )
        for labels in series:
            {"counter": metrics.inc, "gauge": metrics.set, "histogram": metrics.observe}[metric.kind](metric.name, 0.125, **labels)
    return metrics


def count(metrics: Metrics) -> None:
    """Sample the same group again and again."""
    gauges = Gauges(metrics)
    group = InstructionGroup("g", "what is three plus four", "seven", [Utterance(f"voice-{voice}", "a", 1.0) for voice in range(8)])
    tokens = np.zeros(32, "<i4").tobytes()
    completions = [Completion(voice, tokens, tokens, f"answer {voice % 3}", "stop", [], 0.5) for voice in range(8)]
    result = GroupResult(0, 0, "g", Outcome.TIED, purpose=Purpose.TRAIN, completions=completions)
    leased = LeasedGroup(0, 0, group, Purpose.TRAIN, seed=0)
    while True:
        gauges.sampled(result, leased, 0.5)
        time.sleep(1 / GROUPS_PER_S)


if __name__ == "__main__":
    made = filled(sys.argv[1])
    print(made.serve(), flush=True)
    if "counts" in sys.argv:
        count(made)
    sys.stdin.read()
