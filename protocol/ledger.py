"""The ledgers: three identities that account for every leased group, counted in group results.

leased   = settled + outstanding + expired        (leases)
received = unique + duplicate + rejected{reason}  (results that arrived)
unique   = trained + dropped{reason} + queued     (results that entered)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.messages import GroupResult

IDENTITIES = {
    "leased": ("settled", "outstanding", "expired"),
    "received": ("unique", "duplicate", "rejected"),
    "unique": ("trained", "dropped", "queued"),
}

REJECTED = ("unregistered", "foreign", "scattered", "unknown_ordinal", "other_group")
"""Reasons why a result is refused."""


@dataclass(slots=True)
class Ledger:
    """All counts of one run."""

    leased: int = 0
    settled: int = 0
    outstanding: int = 0
    expired: int = 0
    received: int = 0
    unique: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    trained: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    pairs_received: int = 0
    """Preference pairs of the results received; the same for the next two."""
    pairs_duplicate: int = 0
    pairs_rejected: Counter[str] = field(default_factory=Counter)

    def enter(self, result: GroupResult) -> None:
        """`result` is the first outcome of its ordinal."""
        self._receive(result)
        self.unique += 1
        self.queued += 1

    def repeat(self, result: GroupResult) -> None:
        """`result` is known, or its ordinal has an outcome."""
        self._receive(result)
        self.duplicate += 1
        self.pairs_duplicate += len(result.pairs)

    def reject(self, result: GroupResult, reason: str) -> None:
        """`result` is none that anybody asked for."""
        self._receive(result)
        self.rejected[reason] += 1
        self.pairs_rejected[reason] += len(result.pairs)

    def _receive(self, result: GroupResult) -> None:
        self.received += 1
        self.pairs_received += len(result.pairs)

    def copy(self) -> Ledger:
        """The counts of this moment."""
        reasons = Counter(self.rejected), Counter(self.dropped), Counter(self.pairs_rejected)
        return replace(self, rejected=reasons[0], dropped=reasons[1], pairs_rejected=reasons[2])

    def faults(self) -> list[str]:
        """The identities that do not hold, in words; empty when all do."""
        counts = self.as_dict()
        broken = [(whole, parts) for whole, parts in IDENTITIES.items() if counts[whole] != sum(counts[part] for part in parts)]
        return [f"{whole} {counts[whole]} = {' + '.join(f'{part} {counts[part]}' for part in parts)}" for whole, parts in broken]

    def as_dict(self) -> dict[str, Any]:
        """Counts by name; `rejected` and `dropped` as sums, with their reasons beside them."""
        return {
            "leased": self.leased,
            "settled": self.settled,
            "outstanding": self.outstanding,
            "expired": self.expired,
            "received": self.received,
            "unique": self.unique,
            "duplicate": self.duplicate,
            "rejected": self.rejected.total(),
            "trained": self.trained,
            "dropped": self.dropped.total(),
            "queued": self.queued,
            "rejected_reasons": dict(self.rejected),
            "dropped_reasons": dict(self.dropped),
            "pairs_received": self.pairs_received,
            "pairs_duplicate": self.pairs_duplicate,
            "pairs_rejected_reasons": dict(self.pairs_rejected),
        }
