"""One held-out measurement: which groups are still out, and the figures once all are in. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from protocol.measures import GroupMeasures, summarise
from protocol.messages import GroupResult, LeasedGroup, PolicyVersion


class Evaluation:
    """Collects the results of the evaluation leases at one policy version."""

    def __init__(self, label: str, version: PolicyVersion, leased: Sequence[LeasedGroup]) -> None:
        self.label, self.version = label, version
        self._waiting = {entry.ordinal: entry.group.topic for entry in leased}
        self._measures: dict[str, list[GroupMeasures]] = defaultdict(list)
        self.rows: list[dict[str, Any]] = []
        """One a measured group, as they came in: its name, topic, measures and answers."""
        self.unmeasured = 0
        """Groups that came back without measures, such as audio that no actor could read."""

    @property
    def done(self) -> bool:
        """True when every group has its outcome."""
        return not self._waiting

    @property
    def waiting(self) -> int:
        """Groups without an outcome."""
        return len(self._waiting)

    def receive(self, result: GroupResult) -> None:
        """Take one outcome; one that is not of this evaluation changes nothing."""
        topic = self._waiting.pop(result.ordinal, None)
        if topic is None:
            return
        if result.measures is None:
            self.unmeasured += 1
        else:
            self._measures[topic].append(result.measures)
            answers = [completion.text for completion in result.completions]
            self.rows.append({"group": result.group_id, "topic": topic, **msgspec.to_builtins(result.measures), "texts": answers})

    def figures(self) -> dict[str, float]:
        """Over all groups (see `protocol.measures.summarise`)."""
        return summarise(group for groups in self._measures.values() for group in groups)

    def topics(self) -> dict[str, dict[str, float]]:
        """The same, topic by topic."""
        return {topic: summarise(groups) for topic, groups in sorted(self._measures.items())}
