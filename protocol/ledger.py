"""The ledgers: three identities that account for every leased group, counted in group results.

    leased   = settled + outstanding + expired        (leases)
    received = unique + duplicate + rejected{reason}  (results that arrived)
    unique   = trained + dropped{reason} + queued     (results that entered)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


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

    def faults(self) -> list[str]:
        """The identities that do not hold, in words; empty when all do."""
        identities = {
            f"leased {self.leased} = settled {self.settled} + outstanding {self.outstanding} + expired {self.expired}": self.leased
            == self.settled + self.outstanding + self.expired,
            f"received {self.received} = unique {self.unique} + duplicate {self.duplicate} + rejected {self.rejected.total()}": self.received
            == self.unique + self.duplicate + self.rejected.total(),
            f"unique {self.unique} = trained {self.trained} + dropped {self.dropped.total()} + queued {self.queued}": self.unique
            == self.trained + self.dropped.total() + self.queued,
        }
        return [identity for identity, holds in identities.items() if not holds]

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
        }
