"""What a run's ``events.jsonl`` tells: figures step by step, and the held-out evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from protocol.messages import PolicyVersion


class History:
    """Events in the order in which they were written."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        self._steps: list[Mapping[str, Any]] = []
        self._evaluations: list[Mapping[str, Any]] = []
        self._validations: list[Mapping[str, Any]] = []
        for event in events:
            if event["event"] == "step":
                self._steps.append(event)
            elif event["event"] == "evaluation":
                (self._validations if event["label"].startswith("validation ") else self._evaluations).append(event)
            elif event["event"] == "resume":
                self._go_back_to(int(event["step"]))

    def _go_back_to(self, step: int) -> None:
        """The run went on from a checkpoint of `step`: what came after it is told again."""
        self._steps = [each for each in self._steps if each["step"] <= step]
        self._evaluations = [each for each in self._evaluations if _step_of(each) <= step]
        self._validations = [each for each in self._validations if _step_of(each) <= step]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file that may still be written to: a last line without its end is left out."""
        with path.open(encoding="utf-8") as file:
            return cls(json.loads(line) for line in file if line.endswith("\n"))

    @property
    def last_step(self) -> int:
        """The last learner step that was told of; 0 before the first."""
        return int(self._steps[-1]["step"]) if self._steps else 0

    def series(self, key: str) -> list[tuple[float, float]]:
        """``(learner step, value)`` of one figure of the steps, where it is known. ``a.b`` looks into a nested one."""
        points = ((event["step"], _look(event, key)) for event in self._steps)
        return [(float(step), float(value)) for step, value in points if isinstance(value, int | float)]

    def throughput(self) -> list[tuple[float, float]]:
        """``(learner step, groups trained a second)``, waiting included."""
        pairs = zip(self._steps, self._steps[1:], strict=False)
        return [
            (float(now["step"]), now["groups"] / (now["time_s"] - last["time_s"])) for last, now in pairs if now["time_s"] > last["time_s"]
        ]

    def waiting(self) -> list[tuple[float, float]]:
        """``(learner step, share of the time that the learner waited for results)``."""
        return [(float(each["step"]), each["idle_s"] / max(each["idle_s"] + each["seconds"]["total"], 1e-9)) for each in self._steps]

    def evaluation(self, label: str) -> dict[str, float]:
        """Figures of the last evaluation called `label` (``before``, ``after``); empty when there is none."""
        return dict(self._evaluation(label).get("figures", {}))

    def topics(self, label: str) -> dict[str, dict[str, float]]:
        """The same by topic."""
        return dict(self._evaluation(label).get("topics", {}))

    def evaluated(self, figure: str) -> list[tuple[float, float]]:
        """``(learner step, value)`` of one figure over all evaluations of the test set."""
        return _values(self._evaluations, figure)

    def validated(self, figure: str) -> list[tuple[float, float]]:
        """The same over all validations."""
        return _values(self._validations, figure)

    def _evaluation(self, label: str) -> Mapping[str, Any]:
        found = [each for each in self._evaluations if each["label"] == label]
        return found[-1] if found else {}


def _values(evaluations: Iterable[Mapping[str, Any]], figure: str) -> list[tuple[float, float]]:
    known = [each for each in evaluations if each["figures"].get(figure) is not None]
    return [(float(_step_of(each)), float(each["figures"][figure])) for each in known]


def _step_of(evaluation: Mapping[str, Any]) -> int:
    return PolicyVersion.parse(evaluation["policy_version"]).step


def _look(event: Mapping[str, Any], key: str) -> Any:
    value: Any = event
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
